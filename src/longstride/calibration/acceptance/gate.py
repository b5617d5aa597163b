"""The gate: held-out samples accept a calibrated table, or keep its base.

A fitted row can make whole trajectories worse, since errors of different steps may have cancelled before. So
:func:`gate` first gives rows back to the base solver if whole trajectories are better without the fitted rows. Then it
compares the table with its base. :func:`judge` accepts or refuses a table whose rows were fitted together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from longstride.arrays import Array
from longstride.calibration.acceptance.stability import gains, largest_weights
from longstride.calibration.prefix_runs import PrefixRuns
from longstride.calibration.reference.solve import squared_errors
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.journal import table_digest
from longstride.reports import EndReport, Errors, Stability
from longstride.table import SolverTable

__all__ = ["FEWEST", "TRIALS", "gain_samples", "gate", "instability", "judge", "objection"]

#: Rows are tried one by one up to this many, and above it in as many blocks of consecutive rows.
TRIALS = 12
#: Fewer held-out samples do not show that a table is better.
FEWEST = 8
#: Held-out samples, in whole units, that the gain is measured on: half of them, at most so many.
_FEW = 24


class _Trials:
    """Squared errors of tables on held-out trajectories; calls that a table shares with ``known`` are made once."""

    def __init__(self, samples: Samples, known: SolverTable) -> None:
        self.samples, self.known = samples, known
        self._runs: dict[tuple[int, ...], PrefixRuns] = {}

    def __call__(self, table: SolverTable) -> Array:
        """Squared error of every held-out sample at the end of a run of ``table``, shape ``(B,)``; infinite for NaN."""

        def squared(batch: Batch) -> list[Array]:
            (end,) = self._run(batch).ends([table])
            found = squared_errors(end, self.samples.targets(batch))
            return batch.split(np.where(np.isfinite(found), found, np.inf))

        # The calls of the known table were counted when that table was measured.
        prepare: Callable[[Batch], object] | None = None if table is self.known else self._run
        numbers = self.samples.units.held_out
        name = f"gate/{table_digest(table)[:20]}"
        return np.concatenate(self.samples.map(name, numbers, squared, again=True, prepare=prepare))

    def _run(self, batch: Batch) -> PrefixRuns:
        if batch.units not in self._runs:
            self._runs[batch.units] = PrefixRuns(batch.network, batch.noise, self.known)
        return self._runs[batch.units]


def gate(samples: Samples, base: SolverTable, calibrated: SolverTable) -> tuple[SolverTable, EndReport]:
    """Settle on the table to use, by whole trajectories on the held-out samples.

    Args:
        samples: The samples, with a reference solution of the held-out samples at least.
        base: The classical table.
        calibrated: The same table with some rows rewritten.

    Returns:
        The calibrated table, or the base under its name, and the report.
    """
    changed = [k for k in range(1, base.nfe + 1) if calibrated.rows[k - 1] != base.rows[k - 1]]
    trials = _Trials(samples, calibrated)

    def measured(table: SolverTable) -> Errors:
        return Errors.of(trials(table))

    def without(table: SolverTable, block: list[int]) -> SolverTable:
        rows = tuple(base.rows[k - 1] if k in block else row for k, row in enumerate(table.rows, start=1))
        return replace(table, rows=rows, exact=base.exact and rows == base.rows)

    best = measured(calibrated)
    before = measured(replace(base, name=calibrated.name)) if changed else best
    blocks = [part.tolist() for part in np.array_split(changed, min(TRIALS, len(changed) or 1)) if len(part)]
    alone = [measured(without(calibrated, block)) for block in blocks]
    given_back: list[int] = []
    # The block that spoils most goes first. Other blocks may help without it.
    for n in sorted((n for n in range(len(blocks)) if alone[n].rmse < best.rmse), key=lambda n: alone[n].rmse):
        trial = without(calibrated, blocks[n])
        found = measured(trial) if given_back else alone[n]
        if found.rmse < best.rmse:
            calibrated, best = trial, found
            given_back += blocks[n]
    accepted = calibrated.rows != base.rows and best.rmse <= before.rmse
    reason = "" if accepted else "the calibrated rows were worse on held-out trajectories"
    report = _report(samples, before, best, reason, given_back=tuple(sorted(given_back)))
    return calibrated if accepted else replace(base, name=calibrated.name), report


def judge(
    samples: Samples,
    base: SolverTable,
    calibrated: SolverTable,
    *,
    margin: float,
    stability: float,
    confidence: float = 0.95,
    rival: str = "the base",
) -> tuple[SolverTable, EndReport]:
    r"""Accept a calibrated table as a whole, or keep the base; all inner levels and rows may differ.

    On B held-out samples with squared errors :math:`e_n` of the table and :math:`e'_n` of the base, the table needs

    .. math:: \Big(\sum_n e_n\Big)^{1/2} \le (1 + \text{margin}) \Big(\sum_n e'_n\Big)^{1/2}, \qquad
              \bar q + t_p \frac{s(q)}{\sqrt B} < 0, \quad q_n = \tfrac12 \log \frac{e_n}{e'_n},

    and a gain of at most ``stability`` times the base's. A few lucky samples cannot meet the second condition, whose t
    is Student's quantile of p = ``confidence`` with B - 1 degrees of freedom. Fewer than :data:`FEWEST` samples accept
    no table.

    Args:
        samples: The samples, with a reference solution of the held-out samples at least.
        base: The best classical table, or any other table that the fitted table must beat.
        calibrated: The fitted table.
        margin: See above.
        stability: See above.
        confidence: See above.
        rival: What ``base`` is, for the reason.

    Returns:
        The calibrated table, or the base under its name, and the report.
    """
    trials = _Trials(samples, calibrated)
    after = trials(calibrated)
    before = trials(replace(base, name=calibrated.name))
    measured = Stability(
        _gain(samples, calibrated), _gain(samples, base), largest_weights(calibrated), largest_weights(base)
    )
    reason = objection(after, before, margin, rival, confidence) or instability(measured, stability, rival)
    report = _report(samples, Errors.of(before), Errors.of(after), reason, stability=measured)
    return calibrated if not reason else replace(base, name=calibrated.name), report


def _report(
    samples: Samples,
    base: Errors,
    calibrated: Errors,
    reason: str,
    *,
    given_back: tuple[int, ...] = (),
    stability: Stability | None = None,
) -> EndReport:
    """The report; ``reason`` says why the base is kept, and is empty if the table is accepted."""
    assert samples.reference is not None
    error, nfe = samples.reference.error, samples.reference.nfe
    return EndReport(base, calibrated, samples.held_out, error, nfe, given_back, not reason, reason, stability)


def objection(after: Array, before: Array, margin: float, rival: str = "the base", confidence: float = 0.95) -> str:
    """Why squared errors ``after``, shape ``(B,)``, do not surely improve on ``before``; empty if they surely do."""
    n = len(after)
    if n < FEWEST:
        return f"{n} held-out samples cannot show that it is better: hold out {FEWEST} or more"
    if not np.isfinite(after).all():
        return "samples overflow on held-out noise"
    rmse, old = float(np.sqrt(after.mean())), float(np.sqrt(before.mean()))
    if not rmse <= (1 + margin) * old:
        return f"the error on held-out noise is {rmse:.4g}, {rival}'s {old:.4g}"
    tiny = np.finfo(np.float64).tiny
    ratios = 0.5 * (np.log(np.maximum(after, tiny)) - np.log(np.maximum(before, tiny)))
    bound = float(ratios.mean() + stdtrit(n - 1, confidence) * ratios.std(ddof=1) / np.sqrt(n))
    if not bound < 0:
        sure = f"{100 * confidence:g} % bound"
        return f"that it is better is not sure: the ratio of errors may be {np.exp(bound):.3g} ({sure})"
    return ""


def instability(measured: Stability, most: float, rival: str = "the base") -> str:
    """Why a table amplifies errors of the network too much: above ``most`` times its rival; empty if it does not."""
    if measured.gain <= most * measured.base_gain:
        return ""
    return (
        f"errors of the network are amplified {measured.gain:.3g} times, by {rival} {measured.base_gain:.3g} times: "
        f"more than {most:g} times as much"
    )


def gain_samples(held_out: int) -> int:
    """Number of held-out samples that the gain is measured on, up to whole units."""
    return min(_FEW, -(-held_out // 2))


def _gain(samples: Samples, table: SolverTable) -> float:
    """Gain of a table over a few held-out samples; samples differ little in it."""
    last = samples.fitted + gain_samples(samples.held_out)
    numbers = [n for n in samples.units.held_out if samples.units.slices[n].start < last]

    def measure(batch: Batch) -> list[Array]:
        return list(gains(batch.network, batch.noise, table, batch.sizes, batch.units)[:, None])

    total = float(np.sum(samples.map(f"gain/{table_digest(table)[:20]}", numbers, measure, lambda b: (1,))))
    count = samples.units.slices[numbers[-1]].stop - samples.fitted
    return float(np.sqrt(total / count)) if np.isfinite(total) else float("inf")
