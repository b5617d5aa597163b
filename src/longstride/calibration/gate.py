"""The gate: a calibrated table is used only if it is no worse than its base on noise that the fit did not see."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longstride.calibration.reference import Errors, Reference, errors, in_batches
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["EndReport", "gate"]


@dataclass(frozen=True)
class EndReport:
    """Whole trajectories on held-out noise: the base, the calibrated table, and which of them was chosen.

    Attributes:
        base: Errors of the base table.
        calibrated: Errors of the calibrated one.
        samples: Number of held-out samples.
        reference_error: The reference's own estimated error; smaller differences mean nothing.
        reference_nfe: Network calls that one reference sample cost.
        accepted: Whether the calibrated table's RMSE is at most the base's.
    """

    base: Errors
    calibrated: Errors
    samples: int
    reference_error: float
    reference_nfe: int
    accepted: bool


def gate(
    denoiser: DenoiserLike,
    noise: Tensor,
    base: SolverTable,
    calibrated: SolverTable,
    reference: Reference,
    *,
    batch_size: int | None = None,
) -> EndReport:
    """Compare two tables on held-out ``noise``, shape ``(B, *)``, with the converged ``reference`` from it."""
    network = in_batches(denoiser, batch_size or len(noise))
    before, after = (errors(sample(network, noise, table), reference.samples) for table in (base, calibrated))
    return EndReport(before, after, len(noise), reference.error, reference.nfe, after.rmse <= before.rmse)
