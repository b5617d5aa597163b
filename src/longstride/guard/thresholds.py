r"""Thresholds of the monitor: which scores and windows are too rare to be clean.

**A sample** is judged by its score. Where the clean runs allow, the threshold is their conformal quantile: the
:math:`\lceil (n + 1)(1 - a) \rceil`-th of n rising scores. Rarer false alarms are extrapolated by a Pareto law: the
logarithms of the largest tenth of the scores exceed its least by an exponential law, whose mean is taken at its 95 %
bound.

**A window** of m samples is judged by two statistics, each at half of the false alarms.

- *Shift*: :math:`T = m |\bar u|^2`, a weighted sum of squares of nearly normal numbers. With the covariance C of u and
  the error b of the mean of n clean runs its cumulants are :math:`\mathrm{tr}\, C + m |b|^2`,
  :math:`2\, \mathrm{tr}\, C^2 + 4 m\, b^T C b` and :math:`8\, \mathrm{tr}\, C^3 + 24 m\, b^T C^2 b`. The threshold is a
  quantile of the shifted gamma law with these cumulants, where b has its direction from C and its 95 % length; in the
  mean over cards this would be the factor :math:`1 + m / n`.
- *Spread*: the mean rank of the scores among the n clean scores, the statistic of Wilcoxon, Mann and Whitney. Whatever
  the law of the scores, it is nearly normal with mean 1/2 and variance 1 / (12 m), and the ranks themselves are off by
  a normal number of variance 1 / (12 n), whose 95 % bound is added. It tells runs that are farther off, and runs that
  are less varied, than clean runs.

So false alarms are as rare as declared on 19 of 20 cards, and not only in the mean over cards.

References:
    Vovk, Gammerman & Shafer, Algorithmic learning in a random world, 2005, Ch. 2; Hill, A simple general approach to
    inference about the tail of a distribution, 1975 (Pareto); Buckley & Eagleson, An approximation to the distribution
    of quadratic forms in normal random variables, 1988; Mann & Whitney, On a test of whether one of two random
    variables is stochastically larger than the other, 1947.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import chdtri, gammaincc, gammainccinv, ndtri

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.guard.normal import Normal

__all__ = ["Law", "ScoreThreshold", "ranks", "score_threshold", "shift_law", "spread_bounds"]

#: Share of the scores that an extrapolation looks at; confidence that a card's false alarms are as rare as declared.
_TAIL, _CONFIDENCE = 0.1, 0.95


@dataclass(frozen=True)
class ScoreThreshold:
    """The threshold of one sample.

    Attributes:
        score: Samples with a larger score raise an alarm.
        how: ``"conformal"``: a quantile of the clean scores; ``"extrapolated"``: clean runs are too few for one.
    """

    score: float
    how: Literal["conformal", "extrapolated"]


def score_threshold(normal: Normal, false_alarms: float) -> ScoreThreshold:
    """The threshold of one sample.

    Args:
        normal: Clean runs.
        false_alarms: Share of clean samples above it, between 0 and 1.

    Raises:
        InputError: an impossible share.
    """
    _check(false_alarms)
    n, scores = normal.samples, np.array(normal.scores)
    rank = math.ceil((n + 1) * (1 - false_alarms))
    if rank <= n:
        return ScoreThreshold(float(scores[rank - 1]), "conformal")
    many = max(8, math.ceil(_TAIL * n))
    logs = np.log(np.maximum(scores[-many:], 1e-300))
    # Twice the sum over the mean follows chi-squared with two degrees of freedom for each score.
    mean = 2 * float((logs - logs[0]).sum()) / float(chdtri(2 * (many - 1), _CONFIDENCE))
    found = float(np.exp(np.clip(logs[0] + mean * math.log(many / n / false_alarms), -700, 700)))
    return ScoreThreshold(max(found, float(scores[-1])), "extrapolated")


@dataclass(frozen=True)
class Law:
    """A gamma law, moved: ``mean + deviation * (G - shape) / sqrt(shape)`` with G of the gamma law of ``shape``."""

    mean: float
    deviation: float
    shape: float

    def quantile(self, above: float) -> float:
        """The value that a share ``above`` exceeds."""
        return float(self.mean + self.deviation * (gammainccinv(self.shape, above) - self.shape) / self.shape**0.5)

    def above(self, values: Array) -> Array:
        """Share of the law above ``values``."""
        g = self.shape + (np.asarray(values) - self.mean) / self.deviation * self.shape**0.5
        return np.asarray(gammaincc(self.shape, np.maximum(g, 0.0)))


def shift_law(normal: Normal, window: int) -> Law:
    """The law of T of a clean window; see the module."""
    one, two, three = normal.cumulants
    centre = _of_cumulants(one, 2 * two, 8 * three).quantile(1 - _CONFIDENCE) / normal.samples
    off = window * centre / one  # times C: the part of the window's mean that the clean runs' mean is off by
    return _of_cumulants(one * (1 + off), 2 * two * (1 + 2 * off), 8 * three * (1 + 3 * off))


def _of_cumulants(first: float, second: float, third: float) -> Law:
    return Law(first, math.sqrt(second), 4 * second**3 / third**2)


def ranks(normal: Normal, scores: Array) -> Array:
    """Ranks of scores among the clean scores, from 0 to 1; equal scores count half."""
    clean = np.array(normal.scores)
    places = np.searchsorted(clean, scores, "left") + np.searchsorted(clean, scores, "right")
    return np.asarray(places / (2 * len(clean)))


def spread_bounds(normal: Normal, window: int, false_alarms: float) -> tuple[float, float]:
    """Least and greatest mean rank of a clean window.

    Raises:
        InputError: an impossible share.
    """
    _check(false_alarms)
    away = -float(ndtri(false_alarms / 2)) / math.sqrt(12 * window)
    away += float(ndtri(_CONFIDENCE)) / math.sqrt(12 * normal.samples)
    return 0.5 - away, 0.5 + away


def _check(false_alarms: float) -> None:
    if not 0 < false_alarms < 1:
        raise InputError(f"expected a share of false alarms between 0 and 1, such as .001, got {false_alarms}")
