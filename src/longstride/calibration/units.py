"""Units of work, and batches of units.

Work is done in *units* of some samples: one result per unit is summed, kept in a journal and shared between processes.
The network sees *batches* of as many units as it has room for. So results depend on the size of a unit, and not on the
size of a batch, up to the network's own rounding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from longstride.arrays import Array
from longstride.network import Network
from longstride.processes import mine

__all__ = ["UNIT", "Batch", "Units"]

#: Default number of samples of a unit: two processes can share the 16 samples of short fits.
UNIT = 8


@dataclass(frozen=True)
class Units:
    """The units of all samples. Fitted samples come first; no unit holds both fitted and held-out samples.

    Attributes:
        samples: Number of all samples.
        fitted_samples: Number of fitted samples.
        size: Most samples of a unit.
    """

    samples: int
    fitted_samples: int
    size: int

    @cached_property
    def slices(self) -> list[slice]:
        """Place of each unit among all samples, the units of other processes included."""
        bounds = ((0, self.fitted_samples), (self.fitted_samples, self.samples))
        return [slice(b, min(b + self.size, end)) for begin, end in bounds for b in range(begin, end, self.size)]

    @property
    def all(self) -> list[int]:
        """Numbers of all units."""
        return list(range(len(self.slices)))

    @property
    def fitted(self) -> list[int]:
        """Numbers of all fitted units."""
        return [n for n in self.all if self.slices[n].start < self.fitted_samples]

    @property
    def held_out(self) -> list[int]:
        """Numbers of all held-out units."""
        return [n for n in self.all if self.slices[n].start >= self.fitted_samples]

    def first(self, samples: int) -> list[int]:
        """Numbers of the first fitted units that hold ``samples`` samples, or of all fitted units."""
        return [n for n in self.fitted if self.slices[n].start < samples]

    def count(self, number: int) -> int:
        """Number of samples of a unit."""
        return int(self.slices[number].stop - self.slices[number].start)

    def groups(self, numbers: Collection[int], most: int) -> list[tuple[int, ...]]:
        """This process's units among ``numbers``, in groups of at most ``most``.

        Units share a group for all ``numbers``, or for none: fewer numbers make smaller groups.
        """
        wanted, found = set(numbers), list[tuple[int, ...]]()
        for own in (mine(self.fitted), mine(self.held_out)):
            for begin in range(0, len(own), most):
                if group := tuple(n for n in own[begin : begin + most] if n in wanted):
                    found.append(group)
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Units that the network sees together.

    Attributes:
        units: Numbers of the units.
        sizes: Number of samples of each unit.
        index: Place of the samples among all samples.
        noise: First states, shape ``(b, *)``.
        network: The network, bound to the samples.
    """

    units: tuple[int, ...]
    sizes: tuple[int, ...]
    index: slice | Tensor
    noise: Tensor
    network: Network

    @property
    def number(self) -> int:
        """Number of the first unit, which no other batch has."""
        return self.units[0]

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def numbers(self) -> Array:
        """Numbers of the samples among all samples, rising, shape ``(b,)``."""
        return np.arange(self.index.start, self.index.stop) if isinstance(self.index, slice) else self.index.numpy()

    @property
    def slices(self) -> list[slice]:
        """Place of each unit among the samples of the batch."""
        ends = np.cumsum(self.sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def split(self, values: Array) -> list[Array]:
        """Values of the samples, shape ``(b, …)``, unit by unit."""
        return [values[part] for part in self.slices]
