r"""The guard of a card: a score that predicts how much worse than with the base a sample will be, and its threshold.

The score is a ridge regression of :math:`\tanh(\log(e / e') - \log 2)` on statistics of the first calls of a run of the
calibrated table (:mod:`~longstride.guard.statistics`), where e is the error of a sample with the table and e' with the
base. It is 0 where a sample is just bad, twice as far off as with the base. How good a good sample is, or how bad a bad
one, counts little. Each statistic is centred at its median, divided by its median absolute deviation, and cut to four
of these on either side. Leave-one-out errors choose the penalty.

A guard looks once, after some call m. A sample that is flagged there has cost m calls. The base saves the first of its
own calls, which is the same. So m - 1 calls are lost per flagged sample: the earlier the guard looks, the more samples
it can afford to flag. For every m as many samples are flagged as the declared further calls pay for. The guard looks
after the call where the leave-one-out scores flag the samples that are worst in sum. The threshold is a quantile of
these scores, as in conformal prediction: about the declared share of fresh samples exceeds it. It is raised to where a
sample has a chance of one in two hundred to be bad: no other sample is worth the calls. Scores need no errors, so that
any number of further runs can tell the quantile.

Distances from the bulk of all samples (the largest robust z, the robust Mahalanobis distance) were tried in its place.
They flag samples that are hard for the base, too, which the table improves most: at a share of 3 % they gave nearly
all of the gain back.

References:
    Hoerl & Kennard, Ridge regression, 1970; Vovk et al., Algorithmic learning in a random world, 2005, Ch. 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from longstride.arrays import Array, weighted_quantile
from longstride.errors import InputError
from longstride.guard.statistics import names
from longstride.reports import Finite

__all__ = ["FACTOR", "FEWEST", "Guard", "fit_guard", "log_ratios"]

#: A sample is bad if it is more than so many times as far off as with the base.
FACTOR = 2.0
#: Least chance to be bad of a sample that is made again.
_CHANCE = 0.005
#: Largest share of samples that are made again, however little they cost.
_MOST = 0.25
#: A sample that is farther off than so many times the base's error counts as so far off, where calls are compared.
_WORST = 8.0

#: Fewer samples fit no score.
FEWEST = 8
#: A statistic counts up to so many deviations from its median, a log ratio up to this size.
_FARTHEST, _LARGEST = 4.0, 4.0
#: Penalties that are tried.
_PENALTIES = np.geomspace(0.1, 1e5, 31)


@dataclass(frozen=True)
class Guard:
    """A score of samples and a threshold, as plain numbers.

    Attributes:
        centre: Medians of the statistics, shape ``(F,)``; see :func:`longstride.guard.statistics.names`.
        scale: Their median absolute deviations, times 1.4826.
        weights: Weights of the scaled statistics.
        offset: Score of a sample whose statistics are at the medians.
        threshold: Samples with a larger score are made again by the base.
        share: Declared share of such samples; fewer are made again if few can be bad.
        calls: Number of network calls after which the guard looks; None: those of a whole run.
        needed: Whether the gate refused the table without its guard: where no sample can be made again, the base is the
            table to use.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    centre: tuple[Finite, ...]
    scale: tuple[Finite, ...]
    weights: tuple[Finite, ...]
    offset: Finite
    threshold: Finite
    share: Finite
    needed: bool = False
    calls: int | None = None

    def __post_init__(self) -> None:
        if not len(self.centre) == len(self.scale) == len(self.weights) or not all(x > 0 for x in self.scale):
            raise InputError("a guard needs as many medians, positive deviations and weights")
        if not 0 < self.share < 1:
            raise InputError(f"a guard's share must lie between 0 and 1, got {self.share}")
        if self.calls is not None and (self.calls < 1 or len(self.weights) != len(names(self.calls))):
            raise InputError(f"a guard that looks after {self.calls} calls does not have {len(self.weights)} weights")

    def scores(self, statistics: Array) -> Array:
        """Scores, ``(B,)``: above 0 for samples that are likely bad; infinite for statistics with NaN.

        Args:
            statistics: Shape ``(B, F)``; of a guard that looks early, those of a longer run may follow.

        Raises:
            InputError: another number of statistics.
        """
        if self.calls is not None and statistics.ndim == 2:
            statistics = statistics[:, : len(self.weights)]
        if statistics.ndim != 2 or statistics.shape[1] != len(self.weights):
            raise InputError(f"expected statistics (B, {len(self.weights)}), got {statistics.shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # a score that overflows flags its sample
            scaled = _scaled(statistics, np.array(self.centre), np.array(self.scale))
            found = self.offset + scaled @ np.array(self.weights)
        return np.where(np.isnan(statistics).any(1) | np.isnan(found), np.inf, found)

    def flags(self, statistics: Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which samples are made again, ``(B,)``; see :meth:`scores`."""
        flags: np.ndarray[tuple[int], np.dtype[np.bool_]] = self.scores(statistics) > self.threshold
        return flags


def log_ratios(squared: Array, base: Array) -> Array:
    """``log(e / e')`` from squared errors of a table and of its base, shape ``(B,)`` each, cut to ±4.

    NaN and infinity of the table count as the largest ratio; equal errors have ratio 1, even if both are 0.
    """
    tiny = float(np.finfo(np.float64).tiny)
    safe = np.where(np.isfinite(squared), squared, np.inf)
    return np.clip(0.5 * (np.log(np.maximum(safe, tiny)) - np.log(np.maximum(base, tiny))), -_LARGEST, _LARGEST)


def fit_guard(
    statistics: Array,
    ratios: Array,
    share: float,
    nfe: int | None = None,
    *,
    fitted: int = 0,
    weights: Array | None = None,
    others: Array | None = None,
) -> Guard | None:
    """Fit a guard; None for fewer than :data:`FEWEST` samples with finite statistics.

    Args:
        statistics: Statistics of runs of the calibrated table, ``(B, F)``.
        ratios: :func:`log_ratios` of these samples, ``(B,)``.
        share: With ``nfe``, network calls that may be added, over those of the table; else share of samples that may be
            made again. Between 0 and 1.
        nfe: Network calls of the table: the guard may look after any of them. Default: it looks at ``statistics`` as a
            whole.
        fitted: Number of samples, the first, that the table was fitted on. It does better on them than on others, so
            that they do not tell how many samples a threshold flags.
        weights: Weights of the samples in the fit, ``(B,)``; default: all are equal.
        others: Statistics of further samples, whose errors are not known, ``(N, F)``. Together with those that the
            table was not fitted on they are drawn like fresh samples. Default: none.
    """
    whole = np.flatnonzero(np.isfinite(statistics).all(1))
    unseen, equal = np.asarray(whole >= fitted), np.ones(len(statistics))
    statistics, ratios, weights = statistics[whole], ratios[whole], (equal if weights is None else weights)[whole]
    others = statistics[:0] if others is None else others[np.isfinite(others).all(1)]
    if len(ratios) < FEWEST or not unseen.any():
        return None

    def look_at(width: int) -> _Look:
        return _Look(statistics[:, :width], ratios, unseen, weights, others[:, :width])

    if nfe is None:
        return look_at(statistics.shape[1]).guard(share, None)
    found: list[tuple[float, Guard]] = []
    for calls in range(1, nfe + 1):
        look = look_at(len(names(calls)))
        most = share * nfe / (calls - 1) if calls > 1 else 1.0
        guard = look.guard(min(most, _MOST), calls)
        excess = np.minimum(np.exp(ratios), _WORST) - 1
        found.append((float((weights * excess)[look.alone > guard.threshold].sum()), guard))
    return max(found, key=lambda one: one[0])[1]  # of equals the first: it costs least


class _Look:
    """A ridge regression on the statistics that a guard sees.

    Args:
        statistics: Finite statistics ``(B, F)``.
        ratios: Log ratios of errors ``(B,)``.
        unseen: Samples that the table was not fitted on, ``(B,)``.
        weights: Weights of the samples in the fit, ``(B,)``.
        others: Statistics of further samples, ``(N, F)``.

    Attributes:
        alone: Scores of the samples ``(B,)``, each by a fit without it.
        drawn: Scores of samples that are drawn like fresh samples; one that is fitted has that of a fit without it.
    """

    def __init__(
        self, statistics: Array, ratios: Array, unseen: NDArray[np.bool_], weights: Array, others: Array
    ) -> None:
        wanted, share = np.tanh(ratios - math.log(FACTOR)), weights / weights.sum()
        typical = np.concatenate([statistics[unseen], others]) if len(others) else statistics
        self.centre = np.median(typical, axis=0)
        spread = 1.4826 * np.median(np.abs(typical - self.centre), axis=0)
        self.scale = np.where(spread > 1e-9 * (1 + np.abs(self.centre)), spread, 1.0)
        scaled = _scaled(statistics, self.centre, self.scale)
        middle, mean = share @ scaled, float(share @ wanted)
        # Every sample's equation times the root of its weight: least squares with weights.
        root = np.sqrt(weights)
        u, s, v = np.linalg.svd((scaled - middle) * root[:, None], full_matrices=False)
        apart = (wanted - mean) * root
        along, best = u.T @ apart, (math.inf, 0.0, apart)
        for penalty in _PENALTIES.tolist():
            kept = s**2 / (s**2 + penalty)
            leverage = (u**2 @ kept) + share
            residuals = (apart - u @ (kept * along)) / np.maximum(1 - leverage, 1e-9)
            if (found := float(np.mean(residuals**2))) < best[0]:
                best = (found, penalty, residuals)
        _, penalty, residuals = best
        self.residuals, self.weights = residuals / root, weights
        self.slopes = v.T @ (s / (s**2 + penalty) * along)
        self.offset = float(mean - middle @ self.slopes)
        self.alone = wanted - self.residuals
        further = self.offset + _scaled(others, self.centre, self.scale) @ self.slopes
        self.drawn = np.concatenate([self.alone[unseen], further])

    def guard(self, share: float, calls: int | None) -> Guard:
        """The guard that flags a share of samples that the table was not fitted on."""
        ordered = np.sort(self.drawn)
        rank = min(math.ceil((len(ordered) + 1) * (1 - share)), len(ordered))
        worth = -weighted_quantile(self.residuals, 1 - _CHANCE, self.weights)
        return Guard(
            centre=tuple(self.centre.tolist()),
            scale=tuple(self.scale.tolist()),
            weights=tuple(self.slopes.tolist()),
            offset=self.offset,
            threshold=max(float(ordered[rank - 1]), worth),
            share=share,
            calls=calls,
        )


def _scaled(statistics: Array, centre: Array, scale: Array) -> Array:
    found: Array = np.clip((np.nan_to_num(statistics) - centre) / scale, -_FARTHEST, _FARTHEST)
    return found
