"""The gate: a calibrated table is used only if it is no worse than its base on noise that the fit did not see."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longstride.calibration.reference import in_batches
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["EndReport", "Errors", "errors", "gate"]


@dataclass(frozen=True)
class Errors:
    """Distance of samples to the converged solution from the same noise.

    Attributes:
        rmse: Root of the mean squared error over samples and entries.
        median: Median over samples of the root-mean-square error of one sample; blind to a few that switch modes.
    """

    rmse: float
    median: float


def errors(samples: Tensor, target: Tensor) -> Errors:
    """Both errors, for tensors of shape ``(B, *)``."""
    per_sample = (samples.double() - target.double()).square().flatten(1).mean(1)
    return Errors(float(per_sample.mean().sqrt()), float(per_sample.sqrt().median()))


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
    reference: Tensor,
    *,
    reference_error: float,
    reference_nfe: int,
    batch_size: int | None = None,
) -> EndReport:
    """Compare two tables on held-out ``noise``, shape ``(B, *)``, with the converged ``reference`` from that noise."""
    network = in_batches(denoiser, batch_size or len(noise))
    before, after = (errors(sample(network, noise, table), reference) for table in (base, calibrated))
    return EndReport(before, after, len(noise), reference_error, reference_nfe, after.rmse <= before.rmse)
