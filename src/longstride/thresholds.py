"""What is done to clean predictions inside the denoiser: clamping, and dynamic thresholding."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Clamp", "DynamicThreshold"]


class Clamp:
    """Clean predictions clamped to ``[-bound, bound]``."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def __call__(self, clean: Tensor) -> Tensor:
        return clean.clamp(-self.bound, self.bound)


class DynamicThreshold:
    """Clean predictions clamped to a quantile of their own absolute values, and divided by it (Imagen).

    Args:
        ratio: The quantile, per sample.
        largest: Largest divisor; the least is 1.

    References:
        Saharia et al., Photorealistic text-to-image diffusion models, 2022, Sec. 2.3. https://arxiv.org/abs/2205.11487
    """

    def __init__(self, ratio: float = 0.995, largest: float = 1.0) -> None:
        self.ratio, self.largest = ratio, largest

    def __call__(self, clean: Tensor) -> Tensor:
        bound = torch.quantile(clean.flatten(1).abs(), self.ratio, dim=1).clamp(1.0, max(1.0, self.largest))
        bound = bound.reshape(-1, *(1,) * (clean.ndim - 1))
        return clean.clamp(-bound, bound) / bound
