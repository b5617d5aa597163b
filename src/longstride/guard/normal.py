r"""What runs of a table look like when nothing is wrong: the distribution of their statistics over clean samples.

The statistics s of a run (:mod:`~longstride.guard.statistics`) are made comparable in three steps:

1. *Scaled*: :math:`y = (s - \text{median}) / \text{MAD}`, cut to six deviations on either side.
2. *Whitened*: :math:`z = L (y - \bar y)` with :math:`L^T L = \hat\Sigma^{-1}`, where :math:`\hat\Sigma` is the sample
   covariance shrunk towards a multiple of the identity, a tenth as far as Ledoit and Wolf do. Their share is the best
   for the covariance, and hides its narrow directions, which tell most. :math:`|z|^2` is the *score* of a sample.
3. *Cut*: :math:`u = z \min(1, r / |z|) - \bar u`, where r² is the median score. Statistics of runs have heavy tails.
   What is cut counts by its direction, so that the mean of a few samples is nearly normal.

All numbers that thresholds need are *cross-fitted*: each sample is judged by steps that were fitted without it. They
are the sorted scores, and the cumulants :math:`\mathrm{tr}\, C, \mathrm{tr}\, C^2, \mathrm{tr}\, C^3` of u with its
covariance C, each without bias, from products of one, two and three different samples:

.. math:: \mathrm{tr}\, C^2 = \mathbb E\, (u_i \cdot u_j)^2, \qquad
          \mathrm{tr}\, C^3 = \mathbb E\, (u_i \cdot u_j)(u_j \cdot u_k)(u_k \cdot u_i).

References:
    Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004, Sec. 3.2 (step 2);
    Möttönen & Oja, Multivariate spatial sign and rank methods, 1995 (step 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field
from scipy.linalg import cholesky, solve_triangular

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.reports import Finite

__all__ = ["FEWEST", "MOST_STATISTICS", "Normal", "fit_normal", "shrunk_covariance"]

#: Fewer clean runs tell no distribution; more are not kept.
FEWEST, _MOST_SAMPLES = 32, 65_536
#: More statistics make a part that is too large for a card: those of 36 network calls.
MOST_STATISTICS = 256
#: A statistic counts up to so many deviations from its median.
_FARTHEST = 6.0
#: Smaller deviations of logarithms and cosines are rounding; so is what counts in a direction of a smaller share.
_ROUNDING, _LEAST_SHARE = 1e-4, 0.001
#: Part of the share of Ledoit and Wolf.
_PART = 0.1
#: Parts of the samples that are judged without themselves.
_FOLDS = 8
#: Most samples whose products are taken together.
_TOGETHER = 256
#: Digits of the numbers in a card: they are many, and thresholds are made of what is kept.
_DIGITS = 6

_Numbers = Annotated[tuple[Finite, ...], Field(max_length=MOST_STATISTICS)]


@dataclass(frozen=True)
class Normal:
    """The distribution of the statistics of clean runs, as plain numbers; see the module.

    Attributes:
        samples: Number of clean runs.
        centre: Medians of the statistics, shape ``(F,)``; see :func:`longstride.guard.statistics.names`.
        scale: Their median absolute deviations, times 1.4826.
        mean: Means of the scaled statistics.
        whitening: Rows of L, a lower triangle: row i holds i + 1 numbers.
        radius: r, the length to which whitened statistics are cut.
        middle: Mean of the cut statistics.
        scores: Scores of the clean runs, rising, each by a fit without its sample.
        cumulants: Traces of C, C² and C³.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    samples: Annotated[int, Field(ge=FEWEST, le=_MOST_SAMPLES)]
    centre: _Numbers
    scale: _Numbers
    mean: _Numbers
    whitening: Annotated[tuple[_Numbers, ...], Field(max_length=MOST_STATISTICS)]
    radius: Finite
    middle: _Numbers
    scores: Annotated[tuple[Finite, ...], Field(max_length=_MOST_SAMPLES)]
    cumulants: tuple[Finite, Finite, Finite]

    def __post_init__(self) -> None:
        size = len(self.centre)
        if not 1 <= size == len(self.scale) == len(self.mean) == len(self.middle) == len(self.whitening):
            raise InputError("a distribution of clean runs needs as many medians, deviations, means and rows")
        if any(len(row) != i for i, row in enumerate(self.whitening, start=1)):
            raise InputError("row i of the whitening of clean runs must hold i + 1 numbers")
        if not min(*self.scale, self.radius, *self.cumulants, *(row[-1] for row in self.whitening)) > 0:
            raise InputError("deviations, radius, cumulants and the whitening's diagonal must be positive")
        if len(self.scores) != self.samples or min(self.scores) < 0 or list(self.scores) != sorted(self.scores):
            raise InputError("a distribution of clean runs needs one rising score per sample")

    @cached_property
    def _triangle(self) -> Array:
        found = np.zeros((len(self.centre),) * 2)
        for i, row in enumerate(self.whitening):
            found[i, : i + 1] = row
        return found

    def scaled(self, statistics: Array) -> Array:
        """Statistics ``(B, F)`` after the first step; NaN stays.

        Raises:
            InputError: another number of statistics.
        """
        if statistics.ndim != 2 or statistics.shape[1] != len(self.centre):
            raise InputError(f"expected statistics (B, {len(self.centre)}), got {statistics.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            found: Array = np.clip((statistics - np.array(self.centre)) / np.array(self.scale), -_FARTHEST, _FARTHEST)
        return found

    def judged(self, statistics: Array) -> tuple[Array, Array]:
        """Cut statistics u, ``(B, F)``, and scores, ``(B,)``; a sample with NaN has u = 0 and an infinite score.

        Raises:
            InputError: another number of statistics.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            z = (self.scaled(statistics) - np.array(self.mean)) @ self._triangle.T
            score = np.square(z).sum(1)
            u = z * np.minimum(1, self.radius / np.maximum(np.sqrt(score), 1e-300))[:, None] - np.array(self.middle)
        bad = ~np.isfinite(score)
        return np.where(bad[:, None], 0.0, u), np.where(bad, np.inf, score)


def shrunk_covariance(centred: Array) -> Array:
    r"""Covariance of samples, shrunk towards a multiple of the identity, shape ``(F, F)``.

    .. math:: \hat\Sigma = w \mu I + (1 - w) S, \qquad w = \frac{b^2}{10\, d^2}, \qquad
              \mu = \frac{\mathrm{tr}\, S}F, \quad d^2 = \|S - \mu I\|^2, \quad
              b^2 = \min\Big(d^2, \frac1{n^2} \sum_i \|y_i y_i^T - S\|^2\Big).

    The share w is at least .001, so that no direction is so narrow that another machine's rounding counts.

    Args:
        centred: Samples ``(n, F)`` with mean 0.

    References:
        Ledoit & Wolf, 2004, Eq. (14) and Lemmas 3.2 to 3.4.
    """
    n, size = centred.shape
    plain = centred.T @ centred / n
    level = float(np.trace(plain)) / size or 1.0
    away = float(np.square(plain - level * np.eye(size)).sum())
    noise = float(np.square(np.square(centred).sum(1)).sum() / n - np.square(plain).sum()) / n
    share = 1.0 if away <= 0 else min(max(_PART * noise / away, _LEAST_SHARE), _PART)
    found: Array = (1 - share) * plain + share * level * np.eye(size)
    return found


def fit_normal(statistics: Array) -> Normal | None:
    """The distribution of clean runs.

    Args:
        statistics: Statistics of clean runs ``(n, F)``; runs that are not finite are left out.

    Returns:
        The distribution; None for fewer than :data:`FEWEST` finite runs, or more than :data:`MOST_STATISTICS`
        statistics.
    """
    statistics = statistics[np.isfinite(statistics).all(1)][:_MOST_SAMPLES]
    n, size = statistics.shape
    if n < FEWEST or size > MOST_STATISTICS:
        return None
    scores, sums = np.empty(n), np.zeros((2, 3))
    for fold in range(_FOLDS):
        out = np.arange(n) % _FOLDS == fold
        cut, scores[out] = _steps(statistics[~out]).judged(statistics[out])
        sums += sum(_products(part) for part in np.array_split(cut, -(-len(cut) // _TOGETHER)))
    means = sums[0] / sums[1]
    # Means of the fits without a fold are off by one part in their number of samples.
    fitted = n * (_FOLDS - 1) / _FOLDS
    first = means[0] / (1 + 1 / fitted)
    second = min(max(means[1], first**2 / size), first**2)  # what a covariance matrix with this trace can have
    third = min(max(means[2], second**2 / first), second**1.5)
    found = _steps(statistics)
    return Normal(
        n, found.centre, found.scale, found.mean, found.whitening, found.radius, found.middle,
        tuple(sorted(_rounded(scores))), (float(first), float(second), float(third)),
    )  # fmt: skip


def _steps(statistics: Array) -> Normal:
    """The three steps, fitted to samples; scores and cumulants are left open."""
    centre = np.median(statistics, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(statistics - centre), axis=0), _ROUNDING)
    y = np.clip((statistics - centre) / scale, -_FARTHEST, _FARTHEST)
    mean = y.mean(0)
    whitening = solve_triangular(cholesky(shrunk_covariance(y - mean), lower=True), np.eye(len(mean)), lower=True)
    z = (y - mean) @ whitening.T
    lengths = np.sqrt(np.square(z).sum(1))
    radius = float(np.median(lengths)) or 1.0
    middle = (z * np.minimum(1, radius / np.maximum(lengths, 1e-300))[:, None]).mean(0)
    rows = tuple(tuple(_rounded(row[: i + 1])) for i, row in enumerate(whitening))
    return Normal(
        FEWEST, tuple(centre.tolist()), tuple(scale.tolist()), tuple(_rounded(mean)), rows, radius,
        tuple(_rounded(middle)), (0.0,) * FEWEST, (1.0, 1.0, 1.0),
    )  # fmt: skip


def _products(cut: Array) -> Array:
    """Sums and numbers of the products of one, two and three different samples, shape ``(2, 3)``."""
    n, gram = len(cut), cut @ cut.T
    lengths = np.diag(gram).sum()
    np.fill_diagonal(gram, 0.0)
    square = gram @ gram
    sums = [lengths, np.square(gram).sum(), (square * gram).sum()]
    return np.array([sums, [n, n * (n - 1), n * (n - 1) * (n - 2)]])


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
