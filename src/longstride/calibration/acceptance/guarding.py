"""The guard of a calibrated table: it is fitted on the calibration's samples, and judged on fresh samples.

Fresh samples start from noise that is drawn here, with the conditions of the calibration's samples in turn. Neither the
fit nor the guard has seen them. So they say what is claimed of the guarded sampler: how many samples are more than
twice as far off as with the base. If the claim is not as good as wanted, these samples teach the guard, too, and as
many further samples say what is claimed of the better guard. The confidence holds for both looks together, since each
has half of the chance to be wrong.

The verdict is of the guarded sampler, on held-out and fresh samples: its error must not be above the base's, and it
must surely be better on the typical sample. So a table that is accepted has an honest bound, which may be larger than
the wanted bound. A table that the gate refused for a few lost samples gets a second look, with its guard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from longstride.arrays import Array, infinite_for_nan
from longstride.calibration.acceptance.gate import FEWEST, objection
from longstride.calibration.converged import solved
from longstride.calibration.reference.solve import squared_errors
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch, Units
from longstride.errors import InputError
from longstride.guard.bound import needed, upper_share
from longstride.guard.score import FACTOR, Guard, fit_guard, log_ratios
from longstride.guard.statistics import Recorder, names
from longstride.journal import digest, table_digest
from longstride.reports import EndReport, Errors, GuardReport
from longstride.sampler import Run
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
        margin: Margin of the gate on the root-mean-square error.
        stability: Largest gain, as a multiple of the base's gain.
    """

    share: float
    tail: float
    added: float
    margin: float
    stability: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 0 < self.tail <= 1 or not 0 <= self.added < math.inf:
            raise InputError(
                "expected guard_share in [0, 1), guard_tail in (0, 1] and a finite guard_added >= 0, got "
                f"{self.share}, {self.tail} and {self.added}"
            )

    def look(self, samples: int) -> int:
        """Number of fresh samples of each of both looks, for so many samples of a calibration."""
        most = math.ceil(self.added * samples / 2)
        return min(most, 1 if self.tail == 1 else needed(self.tail, _EACH))


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


@dataclass(frozen=True)
class _Runs:
    """What runs of a table and its base gave: statistics of the table's ``(B, F)``, squared errors ``(B,)``."""

    statistics: Array
    squared: Array
    base: Array

    def flags(self, guard: Guard) -> NDArray[np.bool_]:
        """Samples that the base makes again."""
        return guard.flags(self.statistics) | ~np.isfinite(self.squared)

    def guarded(self, guard: Guard) -> Array:
        """Squared errors of the guarded sampler."""
        return np.where(self.flags(guard), self.base, self.squared)

    def of(self, part: slice) -> _Runs:
        """Some samples."""
        return _Runs(self.statistics[part], self.squared[part], self.base[part])

    def joined(self, other: _Runs) -> _Runs:
        """These samples and others."""
        mine, others = (self.statistics, self.squared, self.base), (other.statistics, other.squared, other.base)
        return _Runs(*(np.concatenate(pair) for pair in zip(mine, others, strict=True)))


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
    own = _runs(samples, numbers, calibrated, kept)
    fitted = len(own.base) - samples.held_out

    def learnt() -> Guard | None:
        ratios = log_ratios(own.squared, own.base)
        return fit_guard(own.statistics, ratios, asked.share, calibrated.nfe, fitted=fitted)

    guard = learnt()
    if guard is None:
        return plain
    seen, calls, count = own.of(slice(-samples.held_out, None)), 0, asked.look(len(samples))
    for begin in (0, count) if count else ():
        part = solved(_fresh(samples, 2 * count, slice(begin, begin + count)), whole=False)
        fresh = _runs(part, part.units.all, calibrated, kept)
        calls += part.total_calls()
        seen, report = seen.joined(fresh), _report(fresh, guard)
        end = replace(end, guard=report)
        if begin or report.share <= asked.tail:
            break
        own = own.joined(fresh)
        guard = learnt() or guard
    reason = objection(seen.guarded(guard), seen.base, asked.margin)
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


def _runs(samples: Samples, numbers: list[int], table: SolverTable, base: SolverTable) -> _Runs:
    """Runs of a table and of its base on some units."""
    width = len(names(table.nfe)) + 2

    @torch.inference_mode()
    def run(batch: Batch) -> list[Array]:
        recorder, targets = Recorder(table), samples.targets(batch)
        ends = [Run(batch.noise, table).finish(batch.network, recorder), Run(batch.noise, base).finish(batch.network)]
        squared = [infinite_for_nan(squared_errors(end, targets))[:, None] for end in ends]
        return batch.split(np.concatenate([recorder.read(), *squared], axis=1))

    name = f"guard/{table_digest(table)[:20]}"
    found = np.concatenate(samples.map(name, numbers, run, lambda b: (b, width)))
    return _Runs(found[:, :-2], found[:, -2], found[:, -1])


def _fresh(samples: Samples, count: int, part: slice) -> Samples:
    """Samples from noise of their own, all of them held out; the same on every process and device.

    Args:
        samples: Samples of the calibration.
        count: Number of all fresh samples.
        part: Which of them.
    """
    generator = torch.Generator().manual_seed(int(digest("guard", samples.noise)[:15], 16))
    like, sigma = samples.noise, float(samples.ends.sigmas[0])
    noise = torch.randn(count, *like.shape[1:], generator=generator, dtype=torch.float64)[part] * sigma
    index = torch.arange(count)[part] % len(samples)
    made = replace(
        samples,
        network=samples.network.select(index),
        noise=noise.to(like),
        fitted=0,
        units=Units(len(noise), 0, samples.units.size),
        reference=None,
    )
    folder = samples.journal.folder
    return made.kept(None if folder is None else folder / f"fresh-{part.start}")


def _report(fresh: _Runs, guard: Guard) -> GuardReport:
    flagged, squared = fresh.flags(guard), fresh.guarded(guard)
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
