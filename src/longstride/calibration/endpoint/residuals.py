r"""Residuals: the difference of two samples, and of their features if a user passes a feature map.

A residual maps samples ``(B, *)`` to ``(B, F)``. For pixels (or latents) alone, :math:`\|\varphi(x) - \varphi(y)\|^2`
is the mean squared error. A fit to pixels alone tends to a mean of possible pictures, which looks blurred. Features
beside the pixels can measure sharpness; ``examples/residuals.py`` has three families of features. They are scaled so
that their summed squared distance equals that of the pixels at the base table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double
from longstride.calibration.method import name_of
from longstride.calibration.samples import Samples
from longstride.sampler import sample
from longstride.table import SolverTable

__all__ = ["Features", "Residual", "balanced", "pixels"]

#: Takes samples ``(B, *)`` to features ``(B, F)``, differentiable or not.
Features = Callable[[Tensor], Tensor]
#: Samples whose errors balance the two parts of a residual.
_FEW = 16


def pixels(samples: Tensor) -> Tensor:
    """The default: no features beside the samples themselves, shape ``(B, 0)``."""
    return samples.new_zeros(len(samples), 0)


@dataclass(frozen=True)
class Residual:
    """The map phi: pixels, and features beside them.

    Attributes:
        beside: The features, a function of samples.
        scale: Factor of the features.
    """

    beside: Features = pixels
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Name in journals."""
        return name_of(self.beside)

    @property
    def plain(self) -> bool:
        """Whether pixels alone are compared; squared distances are then mean squared errors."""
        return self.beside is pixels

    def __call__(self, samples: Tensor) -> Tensor:
        """Features ``(B, F)`` of samples ``(B, *)``."""
        flat = samples.flatten(1) / math.sqrt(samples[0].numel())
        return flat if self.plain else torch.cat([flat, self.scale * self.beside(samples)], 1)

    def balanced(self, samples: Tensor, targets: Tensor) -> Residual:
        """The residual whose two parts have equal energy between two sets of samples ``(B, *)``."""
        if self.plain:
            return self
        flat = double(samples - targets).square().flatten(1).mean(1).sum()
        others = double(self.beside(samples) - self.beside(targets)).square().sum()
        return replace(self, scale=float((flat / others).sqrt()) if others > 0 else 1.0)


def balanced(features: Features, samples: Samples, base: SolverTable) -> Residual:
    """The residual whose two parts have equal energy at the last states of ``base``, on a few fitted samples."""
    residual = Residual(features)
    if residual.plain:
        return residual
    few = slice(0, min(_FEW, samples.fitted))

    def find() -> Array:
        assert samples.reference is not None
        ends = sample(samples.network.select(few), samples.noise[few], base)
        return np.array(residual.balanced(ends, samples.reference.samples[few]).scale)

    return replace(residual, scale=float(samples.once(f"balance/{residual.name}", find)))
