"""The gate: a calibrated row is used only where held-out noise agrees, and the whole only if it beats its base.

A row that fits its own step better can still make whole trajectories worse: errors of different steps may have
cancelled before. So, on held-out noise, every fitted row is given back to the base solver if the end of the trajectory
is better without it, and at last the table as a whole is compared with its base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from longstride.calibration.reference import Errors, Reference, errors, in_batches
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["ROW_BY_ROW", "EndReport", "gate"]

#: Up to this many network calls rows are tried one by one; the cost grows with the square, the gain vanishes.
ROW_BY_ROW = 12


@dataclass(frozen=True)
class EndReport:
    """Whole trajectories on held-out noise.

    Attributes:
        base: Errors of the base table.
        calibrated: Errors of the table that the gate settled on, before it was compared with the base.
        samples: Number of held-out samples.
        reference_error: The reference's own estimated error; smaller differences mean nothing.
        reference_nfe: Network calls that one reference sample cost.
        given_back: Rows whose coefficients were dropped here, because whole trajectories are better without them.
        accepted: Whether the RMSE is at most the base's; otherwise the base is used.
    """

    base: Errors
    calibrated: Errors
    samples: int
    reference_error: float
    reference_nfe: int
    given_back: tuple[int, ...]
    accepted: bool


def gate(
    denoiser: DenoiserLike,
    noise: Tensor,
    base: SolverTable,
    calibrated: SolverTable,
    reference: Reference,
    *,
    batch_size: int | None = None,
) -> tuple[SolverTable, EndReport]:
    """Settle on the table to use, by whole trajectories on held-out ``noise``.

    Costs at most ``2 nfe + 2`` roll-outs of the held-out samples, and 2 above :data:`ROW_BY_ROW` network calls, where
    rows are not tried one by one.

    Args:
        denoiser: The network, bound to the held-out samples.
        noise: Held-out first states, shape ``(B, *)``.
        base: The classical table.
        calibrated: The same table with some rows rewritten.
        reference: Converged solution from ``noise``.
        batch_size: Most samples per network call; default: all at once.

    Returns:
        The table (named as the calibrated one even where it is the base), and what was measured.
    """
    network = in_batches(denoiser, batch_size or len(noise))

    def measure(table: SolverTable) -> Errors:
        return errors(sample(network, noise, table), reference.samples)

    def without(table: SolverTable, k: int) -> SolverTable:
        rows = (*table.rows[: k - 1], base.rows[k - 1], *table.rows[k:])
        return replace(table, rows=rows, exact=rows == base.rows)

    before, best = measure(base), measure(calibrated)
    given_back: list[int] = []
    changed = [k for k in range(1, base.nfe + 1) if calibrated.rows[k - 1] != base.rows[k - 1]]
    alone = {k: measure(without(calibrated, k)) for k in changed if base.nfe <= ROW_BY_ROW}
    # The row that spoils most goes first: with it gone, others may be seen to help.
    for k in sorted((k for k in alone if alone[k].rmse < best.rmse), key=lambda k: alone[k].rmse):
        trial = without(calibrated, k)
        found = measure(trial) if given_back else alone[k]
        if found.rmse < best.rmse:
            calibrated, best = trial, found
            given_back.append(k)
    accepted = best.rmse <= before.rmse
    report = EndReport(before, best, len(noise), reference.error, reference.nfe, tuple(sorted(given_back)), accepted)
    return calibrated if accepted else replace(base, name=calibrated.name), report
