"""Statistics of real pictures, from a file that was measured before or from a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from longstride.errors import InputError
from longstride.evaluation.features import load_features
from longstride.evaluation.reference_set import ReferenceSet
from longstride.zoo.model import Model

__all__ = ["own_pictures", "real_pictures"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_BATCH = 64


def own_pictures(model: Model, features: str) -> ReferenceSet | None:
    """Statistics of real pictures that lie beside a model's weights, or None.

    Args:
        model: The model.
        features: Name of the extractor.
    """
    file = None if model.folder is None else model.folder / f"real_{features}.npz"
    return ReferenceSet.load(file) if file is not None and file.is_file() else None


def real_pictures(path: Path, model: Model, features: str, dimensions: int, device: str = "cpu") -> ReferenceSet:
    """Statistics of the real pictures at ``path``.

    Args:
        path: A file of :meth:`ReferenceSet.save`, or a folder of pictures of the model's size. Every second picture
            by name is kept apart for the floor: the distance of real pictures to real pictures.
        model: The model whose pictures are compared with the real pictures.
        features: Name of the extractor.
        dimensions: Principal components.
        device: Where the extractor runs.

    Raises:
        InputError: nothing is there, there are no pictures, or a picture has another size than the model's or cannot be
            read.
    """
    if not path.is_dir():
        found = ReferenceSet.load(path)
        if found.space.features != features:
            raise InputError(f"{path} was measured with {found.space.features}, not with {features}")
        return found
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if len(files) < 4:
        raise InputError(f"{path} holds {len(files)} pictures ({', '.join(_SUFFIXES)}): expected a few thousand")
    latent = torch.zeros(1, *model.shape, device=model.device)
    _, channels, height, width = model.pictures(latent).shape

    def read(file: Path) -> Tensor:
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.float32)
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"cannot read picture {file}: {error}") from None
        if pixels.shape[:2] != (height, width):
            raise InputError(
                f"{file} is {pixels.shape[1]} × {pixels.shape[0]} pixels, but {model.name} makes {width} × {height}: "
                "scale the real pictures to that size first"
            )
        return torch.from_numpy(pixels / 127.5 - 1).view(height, width, -1).permute(2, 0, 1)

    def batches(chosen: list[Path]) -> Iterator[Tensor]:
        for begin in range(0, len(chosen), _BATCH):
            yield torch.stack([read(file) for file in chosen[begin : begin + _BATCH]])

    extractor = load_features(features, device)
    source = f"{len(files[::2])} pictures in {path.name}"
    return ReferenceSet.measure(
        batches(files[::2]), batches(files[1::2]), extractor=extractor, dimensions=dimensions, source=source
    )
