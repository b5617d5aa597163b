"""Units of work, and the batches that the network sees them in.

Two numbers are apart. Work is done in *units* of some samples: what is summed, kept in a journal and shared between
processes is one result per unit. The network sees *batches* of as many units as it has room for. So results depend on
the unit alone, up to the network's own rounding in batches of another size.
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

#: Samples of a unit by default: two processes can share the samples that short fits see.
UNIT = 8


@dataclass(frozen=True)
class Units:
    """How samples are cut into units. Fitted samples come first; no unit holds fitted and held-out ones.

    Attributes:
        samples: Number of all samples.
        fitted_samples: Number of fitted ones.
        size: Most samples of a unit.
    """

    samples: int
    fitted_samples: int
    size: int

    @cached_property
    def slices(self) -> list[slice]:
        """Where each unit is among all samples, the units of other processes included."""
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
        """Samples of a unit."""
        return int(self.slices[number].stop - self.slices[number].start)

    def groups(self, numbers: Collection[int], most: int) -> list[tuple[int, ...]]:
        """This process's units among ``numbers``, in groups of at most ``most``.

        Units that are together in a group are together for any ``numbers``: another call for some of them makes smaller
        groups of the same units, so that a pipeline needs no further calls for these.
        """
        wanted, found = set(numbers), list[tuple[int, ...]]()
        for own in (mine(self.fitted), mine(self.held_out)):
            for begin in range(0, len(own), most):
                if group := tuple(n for n in own[begin : begin + most] if n in wanted):
                    found.append(group)
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Some units that the network sees together.

    Attributes:
        units: Numbers of its units.
        sizes: Samples of each unit.
        index: Where its samples are among all samples.
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
        """The number of its first unit, which no other batch has."""
        return self.units[0]

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def numbers(self) -> Array:
        """Numbers of its samples among all samples, rising, shape ``(b,)``."""
        return np.arange(self.index.start, self.index.stop) if isinstance(self.index, slice) else self.index.numpy()

    @property
    def slices(self) -> list[slice]:
        """Where each unit is among the samples of the batch."""
        ends = np.cumsum(self.sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def split(self, values: Array) -> list[Array]:
        """Values of its samples, shape ``(b, …)``, unit by unit."""
        return [values[part] for part in self.slices]
