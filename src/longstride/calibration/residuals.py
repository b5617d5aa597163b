r"""What of two pictures is compared: fixed feature maps, scaled so that squared distances are mean squared errors.

A map takes samples ``(B, *)`` to ``(B, F)``. Plain pixels (or latents) have :math:`\|\varphi(x) - \varphi(y)\|^2` equal
to the mean squared error. A fit to pixels alone prefers the mean of what it cannot decide, which looks blurred; further
features, whatever their place in the picture, say how sharp it is meant to be:

=========  =======================================================================================================
map        features
=========  =======================================================================================================
pixels     the samples themselves
edges      beside them, the local strength of gradients at three scales,
           :math:`\mathrm{pool}_2 \sqrt{g_x^2 + g_y^2 + \epsilon}` of the picture halved 0, 1 and 2 times
=========  =======================================================================================================

Further features are scaled so that their squared distances are, in all, those of the pixels where a fit starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from longstride.errors import InputError

__all__ = ["RESIDUALS", "Residual"]

#: Below this strength a gradient is not told from none: its square root has a kink at 0.
_FAINT = 1e-3


@dataclass(frozen=True)
class Residual:
    """A feature map with a name.

    Attributes:
        name: In cards and journals.
        beside: Takes samples ``(B, *)`` to features beside the pixels, ``(B, F)``; None: no others.
        scale: Factor of these.
    """

    name: str
    beside: Callable[[Tensor], Tensor] | None = None
    scale: float = 1.0

    @property
    def linear(self) -> bool:
        """Whether features are linear in the samples, and their squared distances mean squared errors."""
        return self.beside is None

    def __call__(self, samples: Tensor) -> Tensor:
        """Features ``(B, F)`` of samples ``(B, *)``."""
        pixels = samples.flatten(1) / math.sqrt(samples[0].numel())
        return pixels if self.beside is None else torch.cat([pixels, self.scale * self.beside(samples)], 1)

    def balanced(self, samples: Tensor, targets: Tensor) -> Residual:
        """The same, with both parts of equal energy between two sets of samples ``(B, *)``."""
        if self.beside is None:
            return self
        pixels = (samples - targets).double().square().flatten(1).mean(1).sum()
        others = (self.beside(samples) - self.beside(targets)).double().square().sum()
        return replace(self, scale=float((pixels / others).sqrt()) if others > 0 else 1.0)


def _edges(samples: Tensor) -> Tensor:
    if samples.ndim != 4 or min(samples.shape[-2:]) < 12:
        raise InputError(
            "residual 'edges' compares pictures or latents (B, C, H, W) of at least 12 × 12, got "
            f"{tuple(samples.shape)}: use residual='pixels'"
        )
    found = []
    for _ in range(3):
        across = samples[:, :, :-1, 1:] - samples[:, :, :-1, :-1]
        down = samples[:, :, 1:, :-1] - samples[:, :, :-1, :-1]
        strength = F.avg_pool2d((across**2 + down**2 + _FAINT).sqrt(), 2)
        found.append(strength.flatten(1) / math.sqrt(strength[0].numel()))
        samples = F.avg_pool2d(samples, 2)
    return torch.cat(found, 1)


#: Every map by name.
RESIDUALS: dict[str, Residual] = {"pixels": Residual("pixels"), "edges": Residual("edges", _edges)}
