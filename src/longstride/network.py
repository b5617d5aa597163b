"""Every denoiser in one form: it tells its schedule, its conditions and its calls."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from longstride.course import Course
from longstride.denoiser import Denoiser
from longstride.errors import InputError
from longstride.sampler import DenoiserLike
from longstride.schedule import Schedule

__all__ = ["Network", "PlainNetwork", "SplitNetwork", "as_network", "in_batches"]

_log = logging.getLogger(__name__)


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
        out = self.denoiser(x, sigma)
        self.calls += len(x)
        return out

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

    If a call does not fit into memory, it is made again in halves, and so are all later ones; the log says so.

    Args:
        network: The network.
        size: Most samples per call.
    """

    def __init__(self, network: Network, size: int) -> None:
        self.network = network
        #: Shared by all views of this network: what is too large for one is so for all.
        self._most = [size]

    def _view(self, network: Network) -> SplitNetwork:
        other = SplitNetwork(network, 0)
        other._most = self._most
        return other

    @property
    def size(self) -> int:
        """Most samples per call, from now on."""
        return self._most[0]

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
        outputs, begin = list[Tensor](), 0
        while not outputs or begin < len(x):
            part = slice(begin, min(begin + self.size, len(x)))
            whole = part == slice(0, len(x))
            try:
                outputs.append(self.network(x, sigma) if whole else self.network.select(part)(x[part], sigma))
            except (RuntimeError, MemoryError) as error:
                if part.stop - begin < 2 or not _of_memory(error):
                    raise
                self._halve(part.stop - begin)
            else:
                begin = part.stop
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _halve(self, count: int) -> None:
        self._most[0] = min(self._most[0], count // 2)
        _log.warning(
            "%d samples in one network call do not fit into memory: from now on it gets %d at a time",
            count,
            self._most[0],
        )

    def at(self, course: Course, k: int) -> SplitNetwork:
        """The network as call ``k`` of a run; see :meth:`longstride.Denoiser.at`."""
        return self._view(self.network.at(course, k)) if self.positional else self

    def select(self, part: slice | Tensor) -> SplitNetwork:
        """The same for some samples of the batch."""
        return self._view(self.network.select(part))

    def repeat(self, times: int) -> SplitNetwork:
        """The same for the whole batch several times over."""
        return self._view(self.network.repeat(times))


def _of_memory(error: Exception) -> bool:
    """Whether memory was too small: on a GPU, on the CPU, or on Apple's."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


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
