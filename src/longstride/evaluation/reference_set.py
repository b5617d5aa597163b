"""Statistics of real pictures in one file. Samples of a network are compared with them."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.evaluation.features import Extractor
from longstride.evaluation.frechet import FeatureSpace, Moments, frechet_distance
from longstride.evaluation.statistics import PICTURE_STATISTICS, picture_statistics
from longstride.files import write_atomically

__all__ = ["ReferenceSet"]

#: Version of the file; a higher one was written by a newer longstride.
_VERSION = 1
#: Coordinates that are kept for density and coverage.
_KEPT = 1_000
#: What can be raised while a damaged file is read.
_BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Statistics of real pictures.

    Attributes:
        source: Where the pictures are from, in words.
        space: Space in which pictures are compared.
        moments: Moments of all reference pictures in that space.
        others: Moments of subsets of other real pictures, by size; see :attr:`floor`.
        coordinates: Coordinates ``(n, dimensions)`` of at most 1,000 random reference pictures, float32.
        pictures: Means of :data:`PICTURE_STATISTICS` over the reference pictures, shape ``(6,)``.

    Raises:
        InputError: the shapes do not fit each other, or a value is not finite.
    """

    source: str
    space: FeatureSpace
    moments: Moments
    others: tuple[Moments, ...]
    coordinates: NDArray[np.float32]
    pictures: Array

    def __post_init__(self) -> None:
        width = self.space.dimensions
        if self.moments.dimensions != width or self.moments.count < 2:
            raise InputError(
                f"moments of {self.moments.count} pictures in {self.moments.dimensions} dimensions, "
                f"expected {width} dimensions and two pictures or more"
            )
        if self.coordinates.shape != (len(self.coordinates), width) or len(self.coordinates) == 0:
            raise InputError(f"expected coordinates (n, {width}), got {self.coordinates.shape}")
        if self.pictures.shape != (len(PICTURE_STATISTICS),):
            raise InputError(f"expected {len(PICTURE_STATISTICS)} picture statistics, got {self.pictures.shape}")
        sizes = [other.count for other in self.others]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 2:
            raise InputError(f"expected rising sizes of the floor's subsets, 2 or more each, got {sizes}")
        if any(other.dimensions != width for other in self.others):
            raise InputError(f"expected the floor's subsets in {width} dimensions")
        arrays = (self.space.mean, self.space.axes, self.coordinates, self.pictures)
        if not all(np.isfinite(array).all() for array in arrays):
            raise InputError("a reference holds NaN or infinity")

    @classmethod
    def measure(
        cls,
        pictures: Iterable[Tensor],
        held_out: Iterable[Tensor],
        extractor: Extractor,
        dimensions: int,
        source: str,
    ) -> ReferenceSet:
        """Measure two splits of real pictures; each split is read once.

        Only features are held in memory. Subsets are drawn at random from a fixed seed.

        Args:
            pictures: Batches ``(B, 1 or 3, H, W)`` in [-1, 1]: the reference.
            held_out: Batches of other pictures from the same source, for the floor.
            extractor: Network that makes the features; see ``load_features``.
            dimensions: Principal components of the space.
            source: Where the pictures are from, in words.

        Raises:
            InputError: there are too few pictures, or the extractor cannot read them.
        """
        batches, total = [], np.zeros(len(PICTURE_STATISTICS))
        for batch in pictures:
            batches.append(extractor(batch).float().cpu())
            total += picture_statistics(batch).sum(0)
        if not batches:
            raise InputError("a reference needs pictures, got none")
        features = torch.cat(batches)
        space = FeatureSpace.fit(features, dimensions, extractor.name)
        coordinates = space.project(features)
        moments = Moments.of(coordinates)
        others = [space.project(extractor(batch)) for batch in held_out]
        count = sum(map(len, others))
        if count < 2:
            raise InputError(f"the floor of a reference needs two held-out pictures or more, got {count}")
        generator = np.random.default_rng(0)
        shuffled = generator.permutation(np.concatenate(others))
        return cls(
            source=source,
            space=space,
            moments=moments,
            others=tuple(Moments.of(shuffled[:n]) for n in _sizes(count)),
            coordinates=generator.permutation(coordinates)[:_KEPT].astype(np.float32),
            pictures=total / len(coordinates),
        )

    @cached_property
    def floor(self) -> tuple[tuple[int, float], ...]:
        """``(size, distance)`` pairs by size: the Fréchet distance of so many other real pictures to the reference.

        No model can be expected to be nearer with as many samples.
        """
        return tuple((other.count, frechet_distance(other, self.moments)) for other in self.others)

    def reduced(self, dimensions: int) -> ReferenceSet:
        """The reference in its leading ``dimensions`` components.

        Raises:
            InputError: the reference has fewer.
        """
        if not 1 <= dimensions <= self.space.dimensions:
            raise InputError(
                f"the statistics of real pictures have {self.space.dimensions} dimensions, asked for {dimensions}: "
                "measure them again, or use as many"
            )
        space = FeatureSpace(self.space.mean, self.space.axes[:, :dimensions], self.space.features)
        moments, others = self.moments.leading(dimensions), tuple(other.leading(dimensions) for other in self.others)
        return replace(self, space=space, moments=moments, others=others, coordinates=self.coordinates[:, :dimensions])

    def floor_near(self, samples: int) -> tuple[int, float]:
        """Size and distance of the floor at the size whose ratio to ``samples`` is nearest to 1."""
        return min(self.floor, key=lambda pair: abs(math.log(pair[0] / samples)))

    @property
    def digest(self) -> str:
        """SHA-256 of the content, equal before saving and after loading."""
        found = hashlib.sha256()
        for name, array in sorted(self._content().items()):
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
        return found.hexdigest()

    def save(self, path: Path) -> None:
        """Write one ``.npz`` file, whole or not at all; equal references give equal bytes.

        Raises:
            InputError: the folder is missing, or cannot be written.
        """
        content = io.BytesIO()
        np.savez(content, **self._content())
        write_atomically(path, content.getvalue())

    def _content(self) -> dict[str, Any]:
        return {
            "version": np.array(_VERSION),
            "source": np.array(self.source),
            "features": np.array(self.space.features),
            "mean": self.space.mean,
            "axes": self.space.axes,
            "moments": self.moments.pack(),
            "floor": np.stack([other.pack() for other in self.others]),
            "coordinates": self.coordinates,
            "pictures": self.pictures,
        }

    @classmethod
    def load(cls, path: Path) -> ReferenceSet:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Raises:
            InputError: the file is missing, holds no reference, is damaged, or comes from a newer longstride.
        """
        try:
            with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as content:
                return cls._read({name: np.asarray(content[name]) for name in content.files})
        except FileNotFoundError:
            raise InputError(f"cannot read {path}: there is no such file") from None
        except _BROKEN as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} is no reference set that can be read ({reason}): make it anew") from None

    @classmethod
    def _read(cls, content: dict[str, NDArray[Any]]) -> ReferenceSet:
        version = int(_numbers(content, "version"))
        if version != _VERSION:
            raise InputError(f"its version is {version}, this longstride reads {_VERSION}")
        space = FeatureSpace(_numbers(content, "mean"), _numbers(content, "axes"), str(content["features"]))
        floor = _numbers(content, "floor")
        if floor.ndim != 2:
            raise InputError(f"expected a floor (n, 1 + d + d²), got {floor.shape}")
        return cls(
            source=str(content["source"]),
            space=space,
            moments=Moments.unpack(_numbers(content, "moments"), space.dimensions),
            others=tuple(Moments.unpack(packed, space.dimensions) for packed in floor),
            coordinates=_numbers(content, "coordinates").astype(np.float32),
            pictures=_numbers(content, "pictures"),
        )


def _numbers(content: dict[str, NDArray[Any]], name: str) -> Array:
    if name not in content:
        raise InputError(f"it has no {name}")
    if content[name].dtype.kind not in "fiu":
        raise InputError(f"its {name} are no numbers")
    return content[name].astype(np.float64)


def _sizes(count: int) -> list[int]:
    """1, 2 and 5 times powers of ten from 100 on, below ``count``, and ``count``."""
    round_sizes = [lead * 10**power for power in range(2, len(str(count))) for lead in (1, 2, 5)]
    return [*(size for size in round_sizes if size < count), count]
