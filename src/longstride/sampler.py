"""The only sampling loop: it runs a table, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from longstride.course import Course
from longstride.errors import InputError, NonFiniteError
from longstride.memory import History
from longstride.table import Row, SolverTable

__all__ = ["Callback", "DenoiserLike", "History", "Run", "sample"]


class DenoiserLike(Protocol):
    """A callable ``denoiser(x, sigma)`` that returns the clean prediction, in the shape of ``x``."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor: ...


#: Called after every network call with its index, the level, the state and the clean prediction.
Callback = Callable[[int, float, Tensor, Tensor], None]


class Run:
    """A table being run: the states and outputs so far, and the index of the next network call.

    A run is the loop of :func:`sample`, one step at a time. A calibration can choose a row after it has seen the
    outputs that the row reads, and a pipeline can call the network itself.

    Args:
        noise: First state; see :func:`sample`.
        table: The sampler.
        keep: Whether to keep states and outputs that no later row of ``table`` reads, for rows of other tables.
        before: Levels of the run that led to ``noise``; default: none.

    Attributes:
        k: Index of the next network call, ``0 … K``; K: the run has ended.
        history: States and outputs so far.
    """

    def __init__(self, noise: Tensor, table: SolverTable, *, keep: bool = False, before: Course | None = None) -> None:
        self.table, self.keep, self.dtype, self.k, self.before = table, keep, noise.dtype, 0, before
        self.history = History(noise)

    @property
    def x(self) -> Tensor:
        """The state to call the network with, or the result of a run that has ended, in the dtype of the noise."""
        return self.history.states[self.k].to(self.dtype)

    @property
    def sigma(self) -> float:
        """The level of :attr:`x`, as a Python float."""
        return self.table.levels[self.k]

    @property
    def where(self) -> tuple[Course, int]:
        """Levels of the whole run, and the number of the next network call in it."""
        own = Course.of(self.table)
        return (own, self.k) if self.before is None else (self.before.then(own), len(self.before.sigmas) + self.k)

    def lend(self) -> Tensor:
        """:attr:`x` for a network that may write into it: a copy, if the caller or a later row reads the state."""
        held, k = self.history.states[self.k], self.k
        if held.dtype != self.dtype:
            return held.to(self.dtype)
        read = self.keep or k == 0 or any(k in row.states for row in self.table.rows[k:])
        return held.clone() if read else held

    def ask(self, denoiser: DenoiserLike, x: Tensor | None = None) -> Tensor:
        """The network's output for :attr:`x`; a network with a method ``at`` is told where in the run it is called.

        Args:
            denoiser: The network. It may write into its argument, and may use the tensor that it returns again.
            x: What :meth:`lend` returned; default: it is called here.
        """
        at = getattr(denoiser, "at", None)
        prediction: Tensor = (denoiser if at is None else at(*self.where))(self.lend() if x is None else x, self.sigma)
        return prediction

    def replace(self, x: Tensor) -> None:
        """Put another state in place of :attr:`x`, such as the state that an inpainting pipeline has changed.

        Raises:
            InputError: the new state has another shape.
        """
        if x.shape != self.history.states[self.k].shape:
            raise InputError(
                f"the state had shape {tuple(self.history.states[self.k].shape)} and now has {tuple(x.shape)}, at call "
                f"{self.k + 1} of {self.table.nfe}"
            )
        self.history.put(self.k, x)

    def see(self, prediction: Tensor, *, fresh: bool = False) -> None:
        """Take the network's output for :attr:`x`.

        Args:
            prediction: The output, in the shape of the state.
            fresh: Whether nobody else holds the tensor, so that it need not be copied for later rows.

        Raises:
            InputError: the output has another shape than the state.
        """
        if prediction.shape != self.history.states[self.k].shape:
            raise InputError(
                f"the denoiser returned shape {tuple(prediction.shape)} for a state of shape "
                f"{tuple(self.history.states[self.k].shape)} at call {self.k + 1} of {self.table.nfe}"
            )
        self.history.put_output(self.k, prediction, fresh=fresh)
        if self.keep:
            self.history.own()  # calls of other runs may come before the next row

    def advance(self, row: Row | None = None) -> None:
        """Go to the next state, by ``row`` or, by default, the table's own row."""
        self.history.states[self.k + 1] = self.history.combine(self.table.rows[self.k] if row is None else row)
        self.k += 1
        if not self.keep:
            self.history.forget(self.table.last_reader, self.k)
        self.history.own()

    def finish(self, denoiser: DenoiserLike, callback: Callback | None = None, first: Tensor | None = None) -> Tensor:
        """Make the calls that are left, and return the last state, which may hold NaN or infinity.

        Args:
            denoiser: The network.
            callback: Called after every network call, as in :func:`sample`.
            first: The network's output for :attr:`x`, if it is known.
        """
        self.go(self.table.nfe, denoiser, callback, first)
        return self.x

    def go(
        self,
        until: int,
        denoiser: DenoiserLike,
        callback: Callback | None = None,
        first: Tensor | None = None,
        watch: Callback | None = None,
    ) -> None:
        """Make the calls before state ``until``, and go to that state; further arguments as in :meth:`finish`.

        ``watch`` is called as ``callback`` is, but before the row. It must not write, and must copy what it keeps: so
        no memory is held while the row is summed.
        """
        while self.k < until:
            k, sigma, x = self.k, self.sigma, self.lend()
            prediction = self.ask(denoiser, x) if first is None else first
            self.see(prediction)
            if watch is not None:
                watch(k, sigma, x, prediction)
            told = None if callback is None else (x, prediction)
            del x, prediction
            first = None
            self.advance()
            if callback is not None and told is not None:  # after the row, which reads the output: it may write
                callback(k, sigma, *told)

    def select(self, index: Tensor) -> Run:
        """The run of some samples alone, to be continued with the network bound to them.

        Args:
            index: Indices ``(b,)`` of samples, on their device.
        """
        other = copy(self)
        other.history = self.history.selected(index)
        return other

    def fork(self, table: SolverTable) -> Run:
        """This run so far, to be continued by another table; tensors are shared."""
        other = copy(self)
        other.table, other.history = table, self.history.copied()
        return other


@torch.inference_mode()
def sample(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    callback: Callback | None = None,
    first: Tensor | None = None,
    before: Course | None = None,
) -> Tensor:
    """Draw samples: run ``table`` from ``noise``.

    Args:
        denoiser: ``denoiser(x, sigma)`` returns the clean prediction; called ``table.nfe`` times with ``x`` in the
            dtype of ``noise`` and ``sigma`` a Python float. It may write into ``x``, and may return the same tensor
            at every call.
        noise: First state, of any shape: ``table.sigmas[0]`` times standard normal noise (plus ``alphas[0]`` times a
            picture, for a start in the middle).
        table: The sampler.
        callback: Called after every network call with ``(k, sigma, x, prediction)``.
        first: The network's output for ``noise``, if it is known; the first call is then not made.
        before: Levels of the run that led to ``noise``, for networks that answer by the number of their step.

    Returns:
        The last state, in the shape, dtype and device of ``noise``.

    Raises:
        InputError: ``noise`` is no floating-point tensor, or the denoiser returned another shape.
        NonFiniteError: the result holds NaN or infinity; the message names the first call that returned such an output.

    Examples:
        >>> import torch, longstride as ls
        >>> table = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.01, sigma_max=10.0))
        >>> x = ls.sample(lambda x, sigma: x / (1 + sigma**2), 10 * torch.randn(4, 2), table)
        >>> x.shape
        torch.Size([4, 2])
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise InputError(f"noise must be a floating-point tensor, got {getattr(noise, 'dtype', type(noise).__name__)}")
    result = Run(noise, table, before=before).finish(denoiser, callback, first)
    if callback is not raise_if_not_finite and not is_finite(result):
        # The result alone is checked, so that the loop waits for no device. A second run finds the call.
        sample(denoiser, noise, table, callback=raise_if_not_finite, before=before)
        raise NonFiniteError(f"the samples overflow {noise.dtype} although every network output is finite")
    return result


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity.

    A finite sum is enough, at a fraction of the cost of a test of every element. A sum that is not finite may have
    overflowed, and so needs that test.
    """
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return math.isfinite(total.item()) or bool(torch.isfinite(tensor).all())


def raise_if_not_finite(k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
    """A callback that raises :class:`NonFiniteError` at the first call whose output holds NaN or infinity."""
    if not torch.isfinite(prediction).all():
        raise NonFiniteError(
            f"the network returned NaN or infinity at call {k + 1} (sigma = {sigma:g}): check the network's precision "
            "(float16 overflows easily), its prediction type and its schedule, and that the noise is finite"
        )
