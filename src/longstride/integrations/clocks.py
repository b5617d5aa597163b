"""Schedules of networks that are told something else than their family's usual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from longstride.arrays import Array
from longstride.families import Family, part_of_ratio, ratio_of_part
from longstride.schedule import Schedule

__all__ = ["CLOCKS", "Clock", "Clocked", "Retimed"]


@dataclass(frozen=True)
class Clock:
    """What a network is told at a noise level.

    Attributes:
        time: Network time at ``sigma / alpha``.
        ratio: ``sigma / alpha`` at a network time.
    """

    time: Callable[[Array], Array]
    ratio: Callable[[Array], Array]


#: Clocks by name. All of them can be asked for any level.
CLOCKS: dict[str, Clock] = {
    "sigma": Clock(lambda ratio: ratio, lambda time: time),
    # EDM's preconditioning and Stable Video Diffusion.
    "log": Clock(lambda ratio: 0.25 * np.log(ratio), lambda time: np.exp(4 * time)),
    # Stable Audio.
    "atan": Clock(lambda ratio: 2 / math.pi * np.arctan(ratio), lambda time: np.tan(math.pi / 2 * time)),
    # A flow whose network is told how clean the state is.
    "clean": Clock(lambda ratio: 1 - part_of_ratio(ratio), lambda time: ratio_of_part(1 - time)),
}


@dataclass(frozen=True)
class Clocked(Schedule):
    """A process with a clock, for every level between two.

    Attributes:
        family: Scale of the states.
        clock: Name of the clock, one of :data:`CLOCKS`.
        low: Least ``sigma / alpha``.
        high: Greatest ``sigma / alpha``; it may be infinite.
        scale: What the time of the clock is multiplied by.
    """

    family: Family
    clock: str
    low: float
    high: float
    scale: float = 1.0

    def ratio(self, t: ArrayLike) -> Array:
        return np.asarray(CLOCKS[self.clock].ratio(np.asarray(t, np.float64) / self.scale))

    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            found = np.asarray(self.scale * CLOCKS[self.clock].time(np.asarray(ratio, np.float64)))
        # No network is called at level 0, whose logarithm is no number: its time is that of the least level.
        return np.where(np.isneginf(found), self.scale * CLOCKS[self.clock].time(np.asarray(self.low)), found)

    @property
    def t_range(self) -> tuple[float, float]:
        return float(self.time_of_ratio(self.low)), float(self.time_of_ratio(self.high))


@dataclass(frozen=True)
class Retimed(Schedule):
    """The levels of one schedule, on a scale of its own, with the times of a run.

    Between the levels of the run the time is linear in ``sigma / (alpha + sigma)``.

    Attributes:
        family: Scale of the states.
        base: Tells the range of the levels, and the times if there is no ``told``.
        told: Pairs of ``sigma / (alpha + sigma)``, rising, and what the network is told there.
    """

    family: Family
    base: Schedule
    told: tuple[tuple[float, float], ...] = ()

    def ratio(self, t: ArrayLike) -> Array:
        if not self.told:
            return self.base.ratio(t)
        times, parts = np.array(sorted((time, part) for part, time in self.told)).T
        return ratio_of_part(np.interp(np.asarray(t, np.float64), times, parts))

    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        if not self.told:
            return self.base.time_of_ratio(ratio)
        parts, times = np.array(self.told).T
        return np.asarray(np.interp(part_of_ratio(ratio), parts, times))

    @property
    def t_range(self) -> tuple[float, float]:
        low, high = self.base.t_range
        if not self.told:
            return low, high
        ends = self.time_of_ratio(self.base.ratio([low, high]))
        return float(ends[0]), float(ends[1])
