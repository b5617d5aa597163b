r"""What of two pictures is compared: fixed feature maps, scaled so that squared distances are mean squared errors.

A map takes samples ``(B, *)`` to ``(B, F)``. Plain pixels (or latents) have :math:`\|\varphi(x) - \varphi(y)\|^2` equal
to the mean squared error. A fit to pixels alone prefers the mean of what it cannot decide, which looks blurred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["RESIDUALS", "Residual"]


@dataclass(frozen=True)
class Residual:
    """A feature map with a name.

    Attributes:
        name: In cards and journals.
        map: Takes samples ``(B, *)`` to features ``(B, F)``.
    """

    name: str
    map: Callable[[Tensor], Tensor]

    def __call__(self, samples: Tensor) -> Tensor:
        """Features ``(B, F)`` of samples ``(B, *)``."""
        return self.map(samples)


def _pixels(samples: Tensor) -> Tensor:
    return samples.flatten(1) / math.sqrt(samples[0].numel())


#: Every map by name.
RESIDUALS: dict[str, Residual] = {"pixels": Residual("pixels", _pixels)}
