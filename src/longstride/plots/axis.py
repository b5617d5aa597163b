"""The noise axis: the logarithm of sigma / alpha from noisy to clean, with 0 and infinity at its ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.table import SolverTable

__all__ = ["NoiseAxis", "ratios_of"]

#: Room for a level 0 or infinity beside the others, as a share of the axis.
_EDGE = 0.08


def ratios_of(table: SolverTable) -> Array:
    """Levels sigma / alpha of a table, shape ``(K + 1,)``; infinite at alpha 0."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(table.sigmas / table.alphas)


@dataclass(frozen=True)
class NoiseAxis:
    """Where levels stand.

    Attributes:
        low: Logarithm of the least positive level.
        high: Logarithm of the largest finite level.
        zero: Whether there is a level 0.
        infinite: Whether there is an infinite level.
    """

    low: float
    high: float
    zero: bool
    infinite: bool

    @staticmethod
    def of(ratios: Sequence[Array]) -> NoiseAxis:
        """The axis that holds all of these levels."""
        found = np.concatenate(ratios)
        inner = found[np.isfinite(found) & (found > 0)]
        inner = inner if len(inner) else np.ones(1)
        ends = math.log10(inner.min()), math.log10(inner.max())
        return NoiseAxis(*ends, bool((found == 0).any()), bool(np.isinf(found).any()))

    @property
    def _gap(self) -> float:
        return _EDGE * max(self.high - self.low, 0.3)

    def places(self, ratios: Array) -> Array:
        """Places of levels on the axis, in the shape of ``ratios``."""
        with np.errstate(divide="ignore"):
            found = np.log10(ratios)
        return np.clip(found, self.low - self._gap, self.high + self._gap)

    def apply(self, ax: Any) -> None:
        """Limits, ticks and name of the axis of x."""
        low, high, gap = self.low, self.high, self._gap
        steps = (1,) if high - low > 2.5 else (1, 3) if high - low > 1.2 else (1, 2, 3, 5, 7)
        every = max(1, math.ceil((high - low) / 8))
        powers = range(math.floor(low), math.ceil(high) + 1, every)
        marks = [math.log10(step) + power for power in powers for step in steps]
        marks = [mark for mark in marks if low - 0.02 <= mark <= high + 0.02]
        labels = [f"{10**mark:.4g}" for mark in marks]
        ends = [(low - gap, "0")] * self.zero + [(high + gap, "∞")] * self.infinite
        ax.set_xticks([*marks, *(place for place, _ in ends)], [*labels, *(label for _, label in ends)])
        ax.set_xlim(high + 1.4 * gap, low - 1.4 * gap)
        ax.grid(True, axis="x")
        ax.set_xlabel("noise level sigma / alpha, from noisy to clean")
