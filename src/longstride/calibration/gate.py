"""The gate: a calibrated row is used only where held-out noise agrees, and the whole only if it beats its base.

A row that fits its own step better can still make whole trajectories worse: errors of different steps may have
cancelled before. So, on held-out noise, fitted rows are given back to the base solver if the end of the trajectory is
better without them, and at last the table as a whole is compared with its base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.normal_equations import Array
from longstride.calibration.reference import Errors, Reference, squared_errors
from longstride.journal import digest
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["TRIALS", "EndReport", "gate"]

#: Rows are tried one by one up to this many, and above it in as many blocks of consecutive rows.
TRIALS = 12


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
        accepted: Whether a calibrated row is left and the RMSE is at most the base's; otherwise the base is used.
    """

    base: Errors
    calibrated: Errors
    samples: int
    reference_error: float
    reference_nfe: int
    given_back: tuple[int, ...]
    accepted: bool


class _Trials:
    """Measures tables on whole held-out trajectories; the calls that they share with ``known`` are made once."""

    def __init__(self, batches: Batches, known: SolverTable, reference: Reference) -> None:
        self.batches, self.known, self.reference = batches, known, reference
        # Per batch one run of the known table, as it was when every call had been made; others go on from there.
        self._points: dict[int, list[Run]] = {}

    def __call__(self, table: SolverTable) -> Errors:
        rows = zip(table.rows, self.known.rows, strict=True)
        shared = next((k for k, (new, old) in enumerate(rows) if new != old), table.nfe - 1)
        name, found = digest(table.a, table.b)[:16], {}
        for batch in self.batches.held_out:
            found[batch.number] = self.batches.part(
                f"gate/{name}/{batch.number}",
                lambda batch=batch: {"squared": self._end(batch, table, shared)},  # type: ignore[misc]
                # Not counted: these calls were, when the known table itself was measured.
                prepare=None if table is self.known else lambda batch=batch: self._walk(batch),  # type: ignore[misc]
            )["squared"]
        return Errors.of(np.concatenate(self.batches.gather(found, held_out=True)))

    @torch.inference_mode()
    def _walk(self, batch: Batch) -> list[Run]:
        if batch.number not in self._points:
            run, points = Run(batch.noise, self.known, keep=True), []
            while run.k < self.known.nfe:
                run.see(batch.denoiser(run.x, run.sigma))
                points.append(run.fork(self.known))
                run.advance()
            self._points[batch.number] = points
        return self._points[batch.number]

    @torch.inference_mode()
    def _end(self, batch: Batch, table: SolverTable, shared: int) -> Array:
        """Squared error of every sample at the end of a run of ``table``, whose first ``shared`` rows are known."""
        run = self._walk(batch)[shared].fork(table)
        run.advance()
        while run.k < table.nfe:
            run.see(batch.denoiser(run.x, run.sigma))
            run.advance()
        begin = batch.part.start - self.batches.fitted
        return squared_errors(run.x, self.reference.samples[begin : begin + len(batch)])


def gate(
    batches: Batches, base: SolverTable, calibrated: SolverTable, reference: Reference
) -> tuple[SolverTable, EndReport]:
    """Settle on the table to use, by whole trajectories on the held-out batches.

    Args:
        batches: The samples.
        base: The classical table.
        calibrated: The same table with some rows rewritten.
        reference: Converged solution from the held-out noise.

    Returns:
        The table (named as the calibrated one even where it is the base), and what was measured.
    """
    changed = [k for k in range(1, base.nfe + 1) if calibrated.rows[k - 1] != base.rows[k - 1]]
    trials = _Trials(batches, calibrated, reference)

    def without(table: SolverTable, block: list[int]) -> SolverTable:
        rows = tuple(base.rows[k - 1] if k in block else row for k, row in enumerate(table.rows, start=1))
        return replace(table, rows=rows, exact=rows == base.rows)

    best = trials(calibrated)
    before = trials(replace(base, name=calibrated.name)) if changed else best
    blocks = [part.tolist() for part in np.array_split(changed, min(TRIALS, len(changed) or 1)) if len(part)]
    alone = [trials(without(calibrated, block)) for block in blocks]
    given_back: list[int] = []
    # The block that spoils most goes first: with it gone, others may be seen to help.
    for n in sorted((n for n in range(len(blocks)) if alone[n].rmse < best.rmse), key=lambda n: alone[n].rmse):
        trial = without(calibrated, blocks[n])
        found = trials(trial) if given_back else alone[n]
        if found.rmse < best.rmse:
            calibrated, best = trial, found
            given_back += blocks[n]
    accepted = calibrated.rows != base.rows and best.rmse <= before.rmse
    report = EndReport(
        before,
        best,
        batches.samples - batches.fitted,
        reference.error,
        reference.nfe,
        tuple(sorted(given_back)),
        accepted,
    )
    return calibrated if accepted else replace(base, name=calibrated.name), report
