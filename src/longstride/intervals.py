"""Quantiles that a confidence interval needs."""

from __future__ import annotations

__all__ = ["student"]


def student(degrees: int, probability: float) -> float:
    """Student's quantile.

    >>> round(student(7, 0.975), 4)
    2.3646

    Args:
        degrees: Degrees of freedom.
        probability: Between 0 and 1.
    """
    from scipy.special import stdtrit  # here, so that ``import longstride`` stays quick

    return float(stdtrit(degrees, probability))
