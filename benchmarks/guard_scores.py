"""Scores that could guard a card, compared on fresh samples at the same share of samples that are made again.

``largest z``
    the largest robust z of all statistics: distance from the median over the median absolute deviation
``mahalanobis``
    their Mahalanobis distance, with a covariance that is shrunk towards a multiple of the identity
``ridge``
    the score of :mod:`longstride.guard.score`
``ridge and distance``
    the larger of the two, each over its own range on the calibration's samples
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from longstride.arrays import Array
from longstride.guard.score import fit_guard

__all__ = ["compared", "scores"]

#: From statistics ``(B, F)`` to scores ``(B,)``.
Score = Callable[[Array], Array]


def scores(statistics: Array, ratios: Array) -> dict[str, Score]:
    """All scores, fitted on a calibration's samples.

    Args:
        statistics: Statistics of runs of the calibrated table, ``(B, F)``.
        ratios: Log ratios of errors to those of the base, ``(B,)``.
    """
    centre = np.median(statistics, axis=0)
    spread = 1.4826 * np.median(np.abs(statistics - centre), axis=0) + 1e-9

    def scaled(values: Array) -> Array:
        return (values - centre) / spread

    guard = fit_guard(statistics, ratios, 0.03)
    assert guard is not None
    own = np.clip(scaled(statistics), -6, 6)
    inverse, middle = np.linalg.inv(_shrunk(own)), own.mean(0)

    def distance(values: Array) -> Array:
        away = scaled(values) - middle
        squares: Array = np.einsum("bi,ij,bj->b", away, inverse, away)
        return np.sqrt(squares)

    def ranged(score: Score) -> Score:
        known = score(statistics)
        low, high = np.median(known), np.quantile(known, 0.97)
        return lambda values: (score(values) - low) / (high - low)

    both = ranged(guard.scores), ranged(distance)
    return {
        "largest z": lambda values: np.abs(scaled(values)).max(1),
        "mahalanobis": distance,
        "ridge": guard.scores,
        "ridge and distance": lambda values: np.maximum(both[0](values), both[1](values)),
    }


def compared(
    calibration: tuple[Array, Array], fresh: Array, squared: Array, base: Array, share: float = 0.03
) -> dict[str, dict[str, float]]:
    """What each score is worth on fresh samples of which it flags exactly ``share``.

    Args:
        calibration: Statistics and log ratios of the calibration's samples.
        fresh: Statistics of fresh samples, ``(N, F)``.
        squared: Their squared errors with the calibrated table, ``(N,)``.
        base: Their squared errors with the base, ``(N,)``.
        share: Share of samples that are made again.

    Returns:
        By score the root-mean-square error over the base's, and the shares of samples that are more than twice and
        four times as far off; ``none`` makes no sample again.
    """
    found = {"none": np.full(len(squared), -np.inf)}
    found |= {name: score(fresh) for name, score in scores(*calibration).items()}
    rows = {}
    for name, values in found.items():
        flagged = values > np.quantile(values, 1 - share) if name != "none" else np.zeros(len(squared), bool)
        ends = np.where(flagged, base, squared)
        rows[name] = {
            "rmse": float(np.sqrt(ends.mean() / base.mean())),
            "worse_2": float((ends > 4 * base).mean()),
            "worse_4": float((ends > 16 * base).mean()),
        }
    return rows


def _shrunk(values: Array) -> Array:
    """Covariance of ``(B, F)`` in the form of Ledoit and Wolf (2004)."""
    away = values - values.mean(0)
    n, width = away.shape
    plain = away.T @ away / n
    level = np.trace(plain) / width
    apart = float(((plain - level * np.eye(width)) ** 2).sum())
    noise = (float(((away**2).sum(1) ** 2).sum()) / n - float((plain**2).sum())) / n
    part = min(1.0, noise / apart) if apart > 0 else 1.0
    found: Array = (1 - part) * plain + part * level * np.eye(width)
    return found
