r"""Which samples may teach a card: what is refused before it counts, and why.

First states are the first level times standard normal noise. For noise z of d entries, the sum of squares is
chi-squared with d degrees of freedom, and the mean times :math:`\sqrt d` is normal. So is, for large d, the mean
product of neighbours times the root of their number. Honest noise is refused at a chance of about one in a million per
look. Noise that is constant, smooth, of another scale or off its centre is refused for sure, if it has enough entries.

A client who chooses among honest noise passes all this. What such samples can do is bounded by the trust region, and by
the roll-out, which asks the traffic of everybody.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import chdtri, ndtri
from torch import Tensor

from longstride.arrays import Array, double
from longstride.errors import InputError

__all__ = ["REASONS", "Reason", "per_sample", "refusals"]

#: Why a sample is refused.
#: ``flagged``: the monitor flagged it. ``non_finite``: its noise, its solution or a run holds NaN or infinity.
#: ``constant``: its noise or its solution is one value. ``scale``: the noise has another size than the first level.
#: ``not_white``: the noise is off its centre, or neighbours are alike. ``repeated``: the same noise was seen before.
#: ``late``: the card was changed while the sample was measured.
Reason = Literal["flagged", "non_finite", "constant", "scale", "not_white", "repeated", "late"]
REASONS: tuple[Reason, ...] = ("flagged", "non_finite", "constant", "scale", "not_white", "repeated", "late")

#: Chance that honest noise is refused by one look at it.
_CHANCE = 1e-6
#: Fewest neighbours whose mean product is nearly normal.
_MANY = 256


def refusals(noise: Tensor, level: float, converged: Tensor) -> list[Reason | None]:
    """Why samples are refused by their noise and their solution; None for samples that are not.

    Args:
        noise: First states ``(B, *)``.
        level: The first level.
        converged: Converged solutions ``(B, *)``.
    """
    return [_refusal(z, end) for z, end in zip(_numbers(noise) / level, _numbers(converged), strict=True)]


def _numbers(tensor: Tensor) -> Array:
    found: Array = double(tensor.detach()).cpu().numpy()
    return found


def _refusal(z: Array, end: Array) -> Reason | None:
    if not (np.isfinite(z).all() and np.isfinite(end).all()):
        return "non_finite"
    if z.size > 1 and (np.ptp(z) == 0 or np.ptp(end) == 0):
        return "constant"
    with np.errstate(over="ignore"):
        energy = float(np.square(z).sum())
    if not chdtri(z.size, 1 - _CHANCE / 2) <= energy <= chdtri(z.size, _CHANCE / 2):
        return "scale"
    return "not_white" if _largest_deviation(z) > -float(ndtri(_CHANCE / 2)) else None


def _largest_deviation(z: Array) -> float:
    """Of the mean, and of the mean product of neighbours along every axis, in their standard deviations."""
    found = [abs(float(z.mean())) * math.sqrt(z.size)]
    for axis in range(z.ndim):
        size = z.shape[axis]
        products = z.take(range(1, size), axis) * z.take(range(size - 1), axis)
        if products.size >= _MANY:
            found.append(abs(float(products.mean())) * math.sqrt(products.size))
    return max(found)


def per_sample(flagged: Tensor | Array | bool | None, count: int) -> list[bool]:
    """Flags of ``count`` samples, from one flag for all, from one per sample, or from none.

    Raises:
        InputError: another number of flags.
    """
    values = np.asarray(flagged.cpu() if isinstance(flagged, Tensor) else bool(flagged) if flagged is None else flagged)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise InputError(f"expected one flag, or {count}, got shape {values.shape}")
    return [bool(one) for one in np.broadcast_to(values, (count,))]
