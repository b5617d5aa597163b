"""The guard of a calibrated table: it is fitted on the calibration's samples, and judged on fresh samples.

Fresh samples start from noise that is drawn here, with the conditions of the calibration's samples in turn. Neither the
fit nor the guard has seen them. So they say what is claimed of the guarded sampler: how many samples are more than
twice as far off as with the base. If the claim is not as good as wanted, these samples teach the guard, too, and as
many further samples say what is claimed of the better guard. The confidence holds for both looks together, since each
has half of the chance to be wrong.

The fit also sees hard samples of a pool (:mod:`longstride.calibration.mining`), as lost samples are rare. The scores
of the whole pool tell the threshold.

The verdict is of the guarded sampler, on held-out and fresh samples: its error must not be above the base's, and it
must surely be better on the typical sample. So a table that is accepted has an honest bound, which may be larger than
the wanted bound. A table that the gate refused for a few lost samples gets a second look, with its guard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from longstride.arrays import Array
from longstride.calibration.acceptance.gate import FEWEST, objection
from longstride.calibration.converged import solved
from longstride.calibration.fresh import fresh
from longstride.calibration.mining import Runs, mined, runs
from longstride.calibration.samples import Samples
from longstride.errors import InputError
from longstride.guard.bound import needed, upper_share
from longstride.guard.score import FACTOR, Guard, fit_guard, log_ratios
from longstride.reports import EndReport, Errors, GuardReport
from longstride.table import SolverTable

__all__ = ["CONFIDENCE", "Guarding", "Verdict", "guarded"]

#: Confidence of the claim, and of each of its two looks.
CONFIDENCE = 0.95
_EACH = 1 - (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Guarding:
    """What is asked of a guard.

    Attributes:
        share: Network calls that samples made again may add, over those of the table; 0: no guard.
        tail: Share of bad samples that is to be claimed as the most.
        added: Most fresh samples, per sample of the calibration; 0: none, and no claim.
        mined: Samples of a pool, per sample of the calibration; 0: no pool. See :mod:`longstride.calibration.mining`.
        hard: Share of hard samples in a pool, whose reference is solved.
        margin: Margin of the gate on the root-mean-square error.
        stability: Largest gain, as a multiple of the base's gain.
    """

    share: float
    tail: float
    added: float
    mined: float
    hard: float
    margin: float
    stability: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 0 < self.tail <= 1 or not 0 <= self.added < math.inf:
            raise InputError(
                "expected guard_share in [0, 1), guard_tail in (0, 1] and a finite guard_added >= 0, got "
                f"{self.share}, {self.tail} and {self.added}"
            )
        if not 0 <= self.mined < math.inf or not 0 < self.hard < 1:
            raise InputError(
                f"expected a finite guard_mined >= 0 and guard_hard in (0, 1), got {self.mined} and {self.hard}"
            )

    def look(self, samples: int) -> int:
        """Number of fresh samples of each of both looks, for so many samples of a calibration."""
        most = math.ceil(self.added * samples / 2)
        return min(most, 1 if self.tail == 1 else needed(self.tail, _EACH))

    def pool(self, samples: int) -> int:
        """Number of samples of a pool, for so many samples of a calibration; 0: no guard is asked for, or no pool."""
        return math.ceil(self.mined * samples) if self.share else 0


@dataclass(frozen=True)
class Verdict:
    """Result of :func:`guarded`.

    Attributes:
        table: The table to use: the calibrated table, or the base under its name.
        end: The report of the gate, with that of the guard.
        guard: The guard; None without one, and for the base.
        calls: Network calls for fresh samples, over all processes.
    """

    table: SolverTable
    end: EndReport
    guard: Guard | None
    calls: int


def _flags(found: Runs, guard: Guard) -> NDArray[np.bool_]:
    """Samples that the base makes again."""
    return guard.flags(found.statistics) | ~np.isfinite(found.squared)


def _guarded(found: Runs, guard: Guard) -> Array:
    """Squared errors of the guarded sampler."""
    return np.where(_flags(found, guard), found.base, found.squared)


def guarded(samples: Samples, base: SolverTable, calibrated: SolverTable, end: EndReport, asked: Guarding) -> Verdict:
    """Fit a guard, judge the guarded sampler, and claim what fresh samples show.

    Args:
        samples: The samples, with their reference solution.
        base: The classical table.
        calibrated: The fitted table, whether the gate accepted it or not.
        end: The gate's report on the table without a guard.
        asked: What is asked.
    """
    kept = replace(base, name=calibrated.name)
    plain = Verdict(calibrated if end.accepted else kept, end, None, 0)
    if not asked.share or not (end.accepted or _hopeful(end, asked.stability)):
        return plain
    numbers = samples.units.all if _whole(samples) else samples.units.held_out
    own = runs(samples, numbers, calibrated, kept)
    fitted = len(own.base) - samples.held_out

    many = asked.pool(len(samples))
    pool = mined(samples, calibrated, kept, "mined-guard", many, asked.hard) if many else None

    def learnt() -> Guard | None:
        told, weights, others = own, None, None
        if pool is not None:
            told, others = own.joined(pool.runs), pool.others
            weights = np.concatenate(pool.weights(own.apart))
        ratios = log_ratios(told.squared, told.base)
        share, nfe = asked.share, calibrated.nfe
        return fit_guard(told.statistics, ratios, share, nfe, fitted=fitted, weights=weights, others=others)

    guard = learnt()
    if guard is None:
        return plain
    seen, calls, count = own.of(slice(-samples.held_out, None)), 0, asked.look(len(samples))
    for begin in (0, count) if count else ():
        part = solved(fresh(samples, "guard", 2 * count, slice(begin, begin + count)), whole=False)
        found = runs(part, part.units.all, calibrated, kept)
        calls += part.total_calls()
        seen, report = seen.joined(found), _report(found, guard)
        end = replace(end, guard=report)
        if begin or report.share <= asked.tail:
            break
        own = own.joined(found)
        guard = learnt() or guard
    reason = objection(_guarded(seen, guard), seen.base, asked.margin)
    if reason:
        reason = f"with its guard, on {len(seen.base)} held-out and fresh samples: {reason}"
    guard = replace(guard, needed=not end.accepted)
    end = replace(end, accepted=not reason, reason=reason)
    return Verdict(kept if reason else calibrated, end, None if reason else guard, calls)


def _hopeful(end: EndReport, stability: float) -> bool:
    """Whether a guard may save a table that the gate refused on enough samples: it is stable, and typically better."""
    gains = end.stability
    stable = gains is not None and gains.gain <= stability * gains.base_gain
    return (
        end.samples >= FEWEST
        and stable
        and math.isfinite(end.calibrated.rmse)
        and end.calibrated.median < end.base.median
    )


def _whole(samples: Samples) -> bool:
    return samples.reference is not None and len(samples.reference.samples) == len(samples)


def _report(fresh: Runs, guard: Guard) -> GuardReport:
    flagged, squared = _flags(fresh, guard), _guarded(fresh, guard)
    bad = int((squared > FACTOR**2 * fresh.base).sum())
    finite = bool(np.isfinite(fresh.squared).all())
    return GuardReport(
        samples=len(squared),
        flagged=int(flagged.sum()),
        base=Errors.of(fresh.base),
        unguarded=Errors.of(fresh.squared) if finite else None,
        guarded=Errors.of(squared),
        factor=FACTOR,
        bad=bad,
        share=upper_share(bad, len(squared), _EACH),
        confidence=CONFIDENCE,
    )
