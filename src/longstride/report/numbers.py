r"""From what was measured to the numbers that a page shows: every one is a function of the outcome alone.

For sample i let :math:`e_i` be the error of a sampler, and :math:`t_i` that of today's sampler from the same noise.

=========  ==================================================  ==========================================
number     formula                                             interval
=========  ==================================================  ==========================================
RMSE       :math:`\sqrt{\mathrm{mean}\, e_i^2}`                bootstrap over samples
median     median of :math:`e_i`                               bootstrap over samples
ratio      :math:`\sqrt{\sum e_i^2 / \sum t_i^2}`              bootstrap over pairs, for all counts at once
tail       share of :math:`e_i > f\, t_i`                      Clopper and Pearson, one-sided
seconds    mean over rounds                                    bootstrap over rounds
saved      mean over rounds of today's seconds less these      bootstrap over rounds
=========  ==================================================  ==========================================

With m calibrated numbers of calls, the interval of a ratio has level :math:`1 - 0.05 / m` (Bonferroni). So the smallest
of them may be picked after one has looked at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from longstride.arrays import Array
from longstride.evaluation.bootstrap import Interval, bootstrap_samples, group_bootstrap
from longstride.guard.bound import upper_share
from longstride.report.outcome import Outcome, Sampler

__all__ = ["CONFIDENCE", "DAYS_PER_MONTH", "FACTORS", "Numbers", "Saving", "Tail", "numbers_of", "payback", "saving"]

#: Confidence of intervals and bounds.
CONFIDENCE = 0.95
#: How many times as far off a sample is that counts in a tail.
FACTORS = (1, 2, 4)
DAYS_PER_MONTH = 30.44
_REPLICATES = 2000
_FEW = 500


@dataclass(frozen=True)
class Tail:
    """How many samples are worse than today's by a factor.

    Attributes:
        factor: The factor.
        count: Number of such samples.
        samples: Number of all samples.
        share: Their share.
        at_most: Largest share that the samples leave possible.
    """

    factor: int
    count: int
    samples: int
    share: float
    at_most: float


@dataclass(frozen=True)
class Numbers:
    """The numbers of one sampler at one number of calls.

    Attributes:
        sampler: The sampler.
        rmse: Root-mean-square error.
        median: Median error of a sample.
        ratio: RMSE over that of today's sampler, on the same noise.
        tails: Shares of samples that are worse than today's, by factor.
        seconds: Seconds per picture, or None if it was not timed.
    """

    sampler: Sampler
    rmse: Interval
    median: Interval
    ratio: Interval
    tails: tuple[Tail, ...]
    seconds: Interval | None

    @property
    def much_worse(self) -> Tail:
        """The tail of the largest factor."""
        return self.tails[-1]


@dataclass(frozen=True)
class Saving:
    """What fewer calls save.

    Attributes:
        seconds: Seconds per picture.
        speed: Today's seconds per picture over the new ones.
        images: Pictures after which calibration is paid back; None if nothing is surely saved.
        images_at_most: The same, at the lower end of the saving.
        money: Money per month, or None without a price and a volume.
        months: Months until calibration is paid back, or None without a volume.
        spent: Price of the calibration, or None without a price.
    """

    seconds: Interval
    speed: Interval
    images: float | None
    images_at_most: float | None
    money: Interval | None
    months: float | None
    spent: float | None


@lru_cache(maxsize=32)
def numbers_of(outcome: Outcome) -> tuple[Numbers, ...]:
    """The numbers of every sampler that was measured, in the outcome's order; empty if today's was not."""
    today = outcome.reference
    if today is None:
        return ()
    reference = np.array(today.errors)
    level = 1 - (1 - CONFIDENCE) / max(1, len({one.calls for one in outcome.samplers if one.kind == "calibrated"}))
    return tuple(_numbers(one, reference, level) for one in outcome.samplers if one.errors)


def _numbers(one: Sampler, reference: Array, level: float) -> Numbers:
    errors = np.array(one.errors)
    pairs = np.stack([errors**2, reference**2], axis=1)
    return Numbers(
        sampler=one,
        rmse=group_bootstrap(lambda s: float(np.sqrt(s[0] / len(errors))), pairs, replicates=_REPLICATES),
        median=bootstrap_samples(lambda s: float(np.median(s)), list(errors[:, None]), replicates=_FEW),
        ratio=group_bootstrap(_ratio, pairs, replicates=_REPLICATES, level=level),
        tails=tuple(_tail(errors, reference, factor) for factor in FACTORS),
        seconds=_mean(np.array(one.seconds)) if one.seconds else None,
    )


def _ratio(sums: Array) -> float:
    return float(np.sqrt(sums[0] / sums[1])) if sums[1] > 0 else float("inf")


def _tail(errors: Array, reference: Array, factor: int) -> Tail:
    count, samples = int((errors > factor * reference).sum()), len(errors)
    return Tail(factor, count, samples, count / samples, upper_share(count, samples, CONFIDENCE))


def _mean(values: Array) -> Interval:
    return group_bootstrap(lambda s: float(s / len(values)), values, replicates=_REPLICATES)


def saving(outcome: Outcome, calls: int) -> Saving | None:
    """What the calibrated sampler with so many calls saves; None if it or today's sampler was not timed."""
    today, ours = outcome.reference, outcome.sampler("calibrated", calls)
    if today is None or ours is None or not today.seconds or len(today.seconds) != len(ours.seconds):
        return None
    rounds = np.stack([today.seconds, ours.seconds], axis=1)
    seconds = group_bootstrap(lambda s: float((s[0] - s[1]) / len(rounds)), rounds, replicates=_REPLICATES)
    speed = group_bootstrap(lambda s: float(s[0] / s[1]), rounds, replicates=_REPLICATES)
    price, volume = outcome.figures.price_per_hour, outcome.figures.images_per_month
    images, at_most = payback(outcome.cost.seconds, seconds)
    money = None
    if price is not None and volume is not None:
        ends = (None if end is None else end * volume * price / 3600 for end in (seconds.low, seconds.high))
        money = Interval(seconds.value * volume * price / 3600, *ends)
    return Saving(
        seconds=seconds,
        speed=speed,
        images=images,
        images_at_most=at_most,
        money=money,
        months=None if volume is None or images is None else images / volume,
        spent=None if price is None else outcome.cost.seconds * price / 3600,
    )


def payback(spent: float, saved: Interval) -> tuple[float | None, float | None]:
    """Pictures after which ``spent`` seconds are paid back, and the most that the interval of the saving leaves.

    >>> payback(600.0, Interval(0.5, 0.4, 0.6))
    (1200.0, 1500.0)
    >>> payback(600.0, Interval(0.1, -0.1, 0.3))
    (None, None)
    """
    low = saved.value if saved.low is None else saved.low
    return (None, None) if low <= 0 else (spent / saved.value, spent / low)
