"""Every denoiser in one form: it tells its schedule, its conditions and its calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longstride.course import Course
from longstride.denoiser import Denoiser
from longstride.errors import InputError
from longstride.sampler import DenoiserLike
from longstride.schedule import Schedule

__all__ = ["Network", "PlainNetwork", "SplitNetwork", "as_network", "in_batches"]


class PlainNetwork:
    """Any callable ``denoiser(x, sigma)`` in the form of a :class:`~longstride.Denoiser`.

    It cannot be bound to some samples: it is the same for all.

    Attributes:
        schedule: The callable's own attribute ``schedule``, or None.
        guidance: The callable's own attribute ``guidance``, or None.
        condition: The callable's own attribute ``condition``, or an empty dictionary.
        cost: Network calls that one sample costs per step: 1.
        positional: Whether an answer depends on the number of its step: False.
        calls: Calls so far, in samples.
    """

    cost = 1
    positional = False

    def __init__(self, denoiser: DenoiserLike) -> None:
        self.denoiser, self.calls = denoiser, 0
        self.schedule: Schedule | None = getattr(denoiser, "schedule", None)
        self.guidance: float | None = getattr(denoiser, "guidance", None)
        self.condition: Any = getattr(denoiser, "condition", None) or {}

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        self.calls += len(x)
        return self.denoiser(x, sigma)

    def at(self, course: Course, k: int) -> PlainNetwork:
        """The same network."""
        del course, k
        return self

    def select(self, part: slice | Tensor) -> PlainNetwork:
        """The same network."""
        del part
        return self

    def repeat(self, times: int) -> PlainNetwork:
        """The same network."""
        del times
        return self


class SplitNetwork:
    """A network that is called with at most so many samples at a time; otherwise it is that network.

    Args:
        network: The network.
        size: Most samples per call.
    """

    def __init__(self, network: Network, size: int) -> None:
        self.network, self.size = network, size

    @property
    def schedule(self) -> Schedule | None:
        """The network's."""
        return self.network.schedule

    @property
    def guidance(self) -> float | None:
        """The network's."""
        return self.network.guidance

    @property
    def condition(self) -> Any:
        """The network's."""
        return self.network.condition

    @property
    def cost(self) -> int:
        """Network calls that one sample costs per step."""
        return self.network.cost

    @property
    def positional(self) -> bool:
        """Whether an answer depends on the number of its step."""
        return self.network.positional

    @property
    def calls(self) -> int:
        """Calls of the network so far, in samples."""
        return self.network.calls

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        if len(x) <= self.size:
            return self.network(x, sigma)
        parts = [slice(begin, min(begin + self.size, len(x))) for begin in range(0, len(x), self.size)]
        return torch.cat([self.network.select(part)(x[part], sigma) for part in parts])

    def at(self, course: Course, k: int) -> SplitNetwork:
        """The network as call ``k`` of a run; see :meth:`longstride.Denoiser.at`."""
        return SplitNetwork(self.network.at(course, k), self.size) if self.positional else self

    def select(self, part: slice | Tensor) -> SplitNetwork:
        """The same for some samples of the batch."""
        return SplitNetwork(self.network.select(part), self.size)

    def repeat(self, times: int) -> SplitNetwork:
        """The same for the whole batch several times over."""
        return SplitNetwork(self.network.repeat(times), self.size)


#: A denoiser that tells its schedule, its conditions and its calls, and can be bound to some of its samples.
Network = Denoiser | PlainNetwork | SplitNetwork


def as_network(denoiser: DenoiserLike) -> Network:
    """A denoiser in the one form; a :class:`~longstride.Denoiser` and a network are returned as they are."""
    return denoiser if isinstance(denoiser, (Denoiser, PlainNetwork, SplitNetwork)) else PlainNetwork(denoiser)


def in_batches(denoiser: DenoiserLike, size: int) -> SplitNetwork:
    """``denoiser`` on at most ``size`` samples at a time; conditions of one entry per sample are cut along.

    Args:
        denoiser: A :class:`~longstride.Denoiser`, or any callable without per-sample conditions.
        size: Samples per network call.

    Raises:
        InputError: a size below 1.
    """
    if size < 1:
        raise InputError(f"batch size must be at least 1, got {size}")
    return SplitNetwork(as_network(denoiser), size)
