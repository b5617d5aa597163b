"""Samples that are a few bright objects on a dark ground: universal tables of their own serve them."""

from __future__ import annotations

from torch import Tensor

__all__ = ["SCALES", "is_dark", "kurtosis_of"]

#: Kurtosis of dark samples, at the least; normal data have 3.
_DARK = 15.0
#: Scales at which their tables are tried, over the standard deviation, which says little of such samples.
SCALES = (1.0, 2.0)


def kurtosis_of(samples: Tensor) -> float:
    """Fourth moment of all values about their mean, over the square of the second."""
    away = samples.double() - samples.double().mean()
    return float(away.pow(4).mean() / away.square().mean() ** 2)


def is_dark(kurtosis: float) -> bool:
    """Whether samples of this kurtosis are dark."""
    return kurtosis > _DARK
