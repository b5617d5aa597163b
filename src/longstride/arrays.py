"""Arrays: their type, float64 copies of tensors, infinity in place of NaN, and quantiles with weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "double", "infinite_for_nan", "weighted_quantile"]

#: Levels, weights and errors are float64.
Array = NDArray[np.float64]


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device if that device has float64 (Apple's has not)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def infinite_for_nan(squared: Array) -> Array:
    """Squared errors of any shape, with infinity for NaN."""
    return np.where(np.isnan(squared), np.inf, squared)


def weighted_quantile(values: Array, part: float, weights: Array) -> float:
    """A quantile of values ``(B,)`` with positive weights ``(B,)``, linear between neighbours as ``np.quantile`` is."""
    order = np.argsort(values)
    own = weights[order]
    middles = np.cumsum(own) - own / 2
    places = (middles - middles[0]) / max(middles[-1] - middles[0], 1e-300)
    return float(np.interp(part, places, values[order]))
