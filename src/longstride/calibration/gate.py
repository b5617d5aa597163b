"""The gate: a calibrated row is used only where held-out noise agrees, and the whole only if it beats its base.

A row that fits its own step better can still make whole trajectories worse: errors of different steps may have
cancelled before. So, on held-out noise, fitted rows are given back to the base solver if the end of the trajectory is
better without them, and at last the table as a whole is compared with its base (:func:`gate`). A table that was fitted
as a whole has no rows to give back: it is accepted or not (:func:`judge`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.normal_equations import Array
from longstride.calibration.reference import Errors, Reference, squared_errors
from longstride.calibration.shared_runs import SharedRuns
from longstride.calibration.stability import Stability, gain, largest_weights
from longstride.intervals import student
from longstride.journal import table_digest
from longstride.table import SolverTable

__all__ = ["FEWEST", "TRIALS", "EndReport", "gate", "judge"]

#: Rows are tried one by one up to this many, and above it in as many blocks of consecutive rows.
TRIALS = 12
#: Fewer held-out samples do not show that a table is better.
FEWEST = 8
#: Held-out samples, in whole batches, that the gain is measured on.
_FEW = 24


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
        accepted: Whether the calibrated table is used; otherwise it is the base.
        reason: Why not, in words; empty where it is.
        stability: Of the calibrated table and its base, where that was measured.
    """

    base: Errors
    calibrated: Errors
    samples: int
    reference_error: float
    reference_nfe: int
    given_back: tuple[int, ...]
    accepted: bool
    reason: str = ""
    stability: Stability | None = None


class _Trials:
    """Squared errors of tables on whole held-out trajectories; calls that they share with ``known`` are made once."""

    def __init__(self, batches: Batches, known: SolverTable, reference: Reference) -> None:
        self.batches, self.known = batches, known
        self.targets = reference.samples[-(batches.samples - batches.fitted) :]
        self._runs: dict[int, SharedRuns] = {}

    def __call__(self, table: SolverTable) -> Array:
        name, found = table_digest(table)[:20], {}
        for batch in self.batches.held_out:
            found[batch.number] = self.batches.part(
                f"gate/{name}/{batch.number}",
                lambda batch=batch: {"squared": self._squared(batch, table)},  # type: ignore[misc]
                # Not counted: these calls were, when the known table itself was measured.
                prepare=None if table is self.known else lambda batch=batch: self._run(batch),  # type: ignore[misc]
            )["squared"]
        return np.concatenate(self.batches.gather(found, self.batches.numbers(held_out=True)))

    def _run(self, batch: Batch) -> SharedRuns:
        if batch.number not in self._runs:
            self._runs[batch.number] = SharedRuns(batch.denoiser, batch.noise, self.known)
        return self._runs[batch.number]

    def _squared(self, batch: Batch, table: SolverTable) -> Array:
        """Squared error of every sample of a batch at the end of a run of ``table``; infinite where it overflows."""
        (end,) = self._run(batch).ends([table])
        begin = batch.part.start - self.batches.fitted
        found = squared_errors(end, self.targets[begin : begin + len(batch)])
        return np.where(np.isfinite(found), found, np.inf)


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

    def measured(table: SolverTable) -> Errors:
        return Errors.of(trials(table))

    def without(table: SolverTable, block: list[int]) -> SolverTable:
        rows = tuple(base.rows[k - 1] if k in block else row for k, row in enumerate(table.rows, start=1))
        return replace(table, rows=rows, exact=rows == base.rows)

    best = measured(calibrated)
    before = measured(replace(base, name=calibrated.name)) if changed else best
    blocks = [part.tolist() for part in np.array_split(changed, min(TRIALS, len(changed) or 1)) if len(part)]
    alone = [measured(without(calibrated, block)) for block in blocks]
    given_back: list[int] = []
    # The block that spoils most goes first: with it gone, others may be seen to help.
    for n in sorted((n for n in range(len(blocks)) if alone[n].rmse < best.rmse), key=lambda n: alone[n].rmse):
        trial = without(calibrated, blocks[n])
        found = measured(trial) if given_back else alone[n]
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
        "" if accepted else "the calibrated rows were worse on held-out trajectories",
    )
    return calibrated if accepted else replace(base, name=calibrated.name), report


def judge(
    batches: Batches,
    base: SolverTable,
    calibrated: SolverTable,
    reference: Reference,
    *,
    margin: float,
    stability: float,
) -> tuple[SolverTable, EndReport]:
    """Accept a calibrated table as a whole, or keep the base; their inner levels and rows may all differ.

    It must hold on held-out noise that (1) the root-mean-square error is at most ``1 + margin`` times the base's; (2)
    the mean logarithm of the ratio of both errors of a sample is below 0 with 95 % confidence, which a few lucky
    samples cannot bring about; (3) the gain is at most ``stability`` times the base's.

    Args:
        batches: The samples.
        base: The best classical table.
        calibrated: The fitted one.
        reference: Converged solution of the held-out noise, or of all.
        margin: See above.
        stability: See above.

    Returns:
        The table (named as the calibrated one even where it is the base), and what was measured.
    """
    trials = _Trials(batches, calibrated, reference)
    after = trials(calibrated)
    before = trials(replace(base, name=calibrated.name))
    measured = Stability(
        _gain(batches, calibrated), _gain(batches, base), largest_weights(calibrated), largest_weights(base)
    )
    reason = _objection(after, before, margin)
    if not reason and not measured.gain <= stability * measured.base_gain:
        reason = (
            f"errors of the network are amplified {measured.gain:.3g} times, by the base {measured.base_gain:.3g} "
            f"times: more than {stability:g} times as much"
        )
    report = EndReport(
        Errors.of(before),
        Errors.of(after),
        batches.samples - batches.fitted,
        reference.error,
        reference.nfe,
        (),
        not reason,
        reason,
        measured,
    )
    return calibrated if not reason else replace(base, name=calibrated.name), report


def _objection(after: Array, before: Array, margin: float) -> str:
    """Why squared errors ``after``, shape ``(B,)``, do not surely improve on ``before``; empty if they do."""
    n = len(after)
    if n < FEWEST:
        return f"{n} held-out samples cannot show that it is better: hold out {FEWEST} or more"
    if not np.isfinite(after).all():
        return "samples overflow on held-out noise"
    rmse, old = float(np.sqrt(after.mean())), float(np.sqrt(before.mean()))
    if not rmse <= (1 + margin) * old:
        return f"the error on held-out noise is {rmse:.4g}, the base's {old:.4g}"
    tiny = np.finfo(np.float64).tiny
    ratios = 0.5 * (np.log(np.maximum(after, tiny)) - np.log(np.maximum(before, tiny)))
    bound = float(ratios.mean() + student(n - 1, 0.95) * ratios.std(ddof=1) / np.sqrt(n))
    if not bound < 0:
        return f"that it is better is not sure: the ratio of errors may be {np.exp(bound):.3g} (95 % bound)"
    return ""


def _gain(batches: Batches, table: SolverTable) -> float:
    """Gain of a table over a few held-out samples; it differs little between samples."""
    numbers = [n for n in batches.numbers(held_out=True) if batches.slices[n].start < batches.fitted + _FEW]
    found, name = {}, table_digest(table)[:20]
    for batch in (b for b in batches.held_out if b.number in numbers):

        def measure(batch: Batch = batch) -> dict[str, Array]:
            return {"squared": np.array([gain(batch.denoiser, batch.noise, table, seed=batch.number)])}

        found[batch.number] = batches.part(f"gain/{name}/{batch.number}", measure)["squared"]
    total = float(np.sum(batches.gather(found, numbers, lambda b: (1,))))
    samples = batches.slices[numbers[-1]].stop - batches.fitted
    return float(np.sqrt(total / samples)) if np.isfinite(total) else float("inf")
