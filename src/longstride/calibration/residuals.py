r"""What of two pictures is compared: fixed feature maps, scaled so that squared distances are mean squared errors.

A map takes samples ``(B, *)`` to ``(B, F)``. Plain pixels (or latents) have :math:`\|\varphi(x) - \varphi(y)\|^2` equal
to the mean squared error. A fit to pixels alone prefers the mean of what it cannot decide, which looks blurred; further
features, whatever their place in the picture, say how sharp it is meant to be:

=========  =======================================================================================================
map        features
=========  =======================================================================================================
pixels     the samples themselves
gradients  beside them, differences of neighbours :math:`g_x, g_y`: a frequency w weighs
           :math:`4 \sin^2(w_x / 2) + 4 \sin^2(w_y / 2)`
edges      beside them, their local strength, :math:`\mathrm{pool}_2 \sqrt{g_x^2 + g_y^2 + \epsilon}`, in the picture
           halved 0, 1 and 2 times
moments    beside them, standard deviations in windows of 2, 4 and 8 pixels,
           :math:`\sqrt{\mathrm{pool}(x^2) - \mathrm{pool}(x)^2 + \epsilon}`: local second moments are matched
=========  =======================================================================================================

Further features are scaled so that their squared distances are, in all, those of the pixels where a fit starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from longstride.errors import InputError

__all__ = ["RESIDUALS", "Residual"]

#: Below the root of this a gradient or a contrast is not told from none: a square root has a kink at 0.
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
    def plain(self) -> bool:
        """Whether features are the samples alone: squared distances are mean squared errors then."""
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


def _halved(name: str, samples: Tensor, scales: int = 3) -> Iterator[Tensor]:
    """Samples ``(B, C, H, W)``, halved 0, 1, … times.

    Raises:
        InputError: there are no pictures, or too small ones.
    """
    if samples.ndim != 4 or min(samples.shape[-2:]) < 12:
        raise InputError(
            f"residual {name!r} compares pictures or latents (B, C, H, W) of at least 12 × 12, got "
            f"{tuple(samples.shape)}: use residual='pixels'"
        )
    for scale in range(scales):
        samples = F.avg_pool2d(samples, 2) if scale else samples
        yield samples


def _differences(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours across and down, each ``(B, C, H - 1, W - 1)``."""
    corner = samples[:, :, :-1, :-1]
    return samples[:, :, :-1, 1:] - corner, samples[:, :, 1:, :-1] - corner


def _together(parts: Iterable[Tensor]) -> Tensor:
    """Parts ``(B, …)`` as one ``(B, F)``; the squares of each are averaged."""
    return torch.cat([part.flatten(1) / math.sqrt(part[0].numel()) for part in parts], 1)


def _gradients(samples: Tensor) -> Tensor:
    return _together(_differences(next(_halved("gradients", samples))))


def _edges(samples: Tensor) -> Tensor:
    def strength(one: Tensor) -> Tensor:
        across, down = _differences(one)
        return F.avg_pool2d((across**2 + down**2 + _FAINT).sqrt(), 2)

    return _together(map(strength, _halved("edges", samples)))


def _moments(samples: Tensor) -> Tensor:
    windows = zip(*(list(_halved("moments", one, 4))[1:] for one in (samples, samples**2)), strict=True)
    return _together(((square - mean**2).clamp(min=0) + _FAINT).sqrt() for mean, square in windows)


#: Every map by name.
RESIDUALS: dict[str, Residual] = {
    "pixels": Residual("pixels"),
    "gradients": Residual("gradients", _gradients),
    "edges": Residual("edges", _edges),
    "moments": Residual("moments", _moments),
}
