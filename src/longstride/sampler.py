"""The only sampling loop: it runs a table, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from longstride.errors import InputError, NonFiniteError
from longstride.table import Row, SolverTable

__all__ = ["Callback", "DenoiserLike", "History", "Run", "sample"]


class DenoiserLike(Protocol):
    """Anything called as ``denoiser(x, sigma)`` that returns the clean prediction, in the shape of ``x``."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor: ...


#: Called after every network call with its index, the level, the state and the clean prediction.
Callback = Callable[[int, float, Tensor, Tensor], None]


class History:
    """The states and outputs of one run that a later row may still read.

    States are kept in float32 or better even where the network works in half precision, and every row is summed
    there; weights reach the tensors as Python floats, so nothing waits for the device.

    Attributes:
        states: Kept states by index.
        outputs: Kept network outputs by index.
    """

    def __init__(self, noise: Tensor) -> None:
        self.dtype = torch.promote_types(noise.dtype, torch.float32)
        self.states: dict[int, Tensor] = {0: noise.to(self.dtype)}
        self.outputs: dict[int, Tensor] = {}

    def combine(self, row: Row) -> Tensor:
        """Value of ``row``; a new tensor."""
        terms = [(weight, self.states[i]) for i, weight in row.states.items()]
        terms += [(weight, self.outputs[j]) for j, weight in row.outputs.items()]
        (weight, tensor), *rest = terms
        total = tensor.to(self.dtype, copy=True).mul_(weight) if tensor.dtype != self.dtype else tensor * weight
        for weight, tensor in rest:
            total.add_(tensor, alpha=weight)
        return total

    def forget(self, last_readers: tuple[Sequence[int], Sequence[int]], k: int) -> None:
        """Free what no row after row ``k`` reads, given the last readers of all states and outputs."""
        for kept, last_reader in zip((self.states, self.outputs), last_readers, strict=True):
            for index in [i for i in kept if last_reader[i] <= k]:
                del kept[index]


class Run:
    """A table being run: the states and outputs so far, and the index of the next network call.

    The loop of :func:`sample`, one step at a time, for whoever decides about a row after having seen what it reads
    (calibration), or drives the network from outside.

    Args:
        noise: First state; see :func:`sample`.
        table: The sampler.
        keep: Whether to keep what no later row of ``table`` reads, for rows that are not the table's own.

    Attributes:
        k: Index of the next network call, ``0 … K``; K: the run has ended.
        history: What was seen.
    """

    def __init__(self, noise: Tensor, table: SolverTable, *, keep: bool = False) -> None:
        self.table, self.keep, self.dtype, self.k = table, keep, noise.dtype, 0
        self.history = History(noise)

    @property
    def x(self) -> Tensor:
        """The state to call the network with, or the result of a run that has ended, in the dtype of the noise."""
        return self.history.states[self.k].to(self.dtype)

    @property
    def sigma(self) -> float:
        """The level of :attr:`x`, as a Python float."""
        return self.table.levels[self.k]

    def replace(self, x: Tensor) -> None:
        """Take another state in place of :attr:`x`, from whoever drives the run and has changed it.

        Raises:
            InputError: it has another shape.
        """
        if x.shape != self.history.states[self.k].shape:
            raise InputError(
                f"the state had shape {tuple(self.history.states[self.k].shape)} and now has {tuple(x.shape)}, at call "
                f"{self.k + 1} of {self.table.nfe}"
            )
        self.history.states[self.k] = x.to(self.history.dtype)

    def see(self, prediction: Tensor) -> None:
        """Take what the network returned for :attr:`x`.

        Raises:
            InputError: it has another shape than the state.
        """
        if prediction.shape != self.history.states[self.k].shape:
            raise InputError(
                f"the denoiser returned shape {tuple(prediction.shape)} for a state of shape "
                f"{tuple(self.history.states[self.k].shape)} at call {self.k + 1} of {self.table.nfe}"
            )
        self.history.outputs[self.k] = prediction

    def advance(self, row: Row | None = None) -> None:
        """Go to the next state, by ``row`` in place of the table's own where it is given."""
        self.history.states[self.k + 1] = self.history.combine(self.table.rows[self.k] if row is None else row)
        self.k += 1
        if not self.keep:
            self.history.forget(self.table.last_reader, self.k)

    def finish(self, denoiser: DenoiserLike) -> Tensor:
        """Make the calls that are left, and return the last state; unlike :func:`sample`, whatever it holds."""
        while self.k < self.table.nfe:
            self.see(denoiser(self.x, self.sigma))
            self.advance()
        return self.x

    def fork(self, table: SolverTable) -> Run:
        """This run so far, to be continued by another table; tensors are shared."""
        other = copy(self)
        other.table, other.history = table, copy(self.history)
        other.history.states, other.history.outputs = dict(self.history.states), dict(self.history.outputs)
        return other


@torch.inference_mode()
def sample(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    callback: Callback | None = None,
    first: Tensor | None = None,
) -> Tensor:
    """Draw samples: run ``table`` from ``noise``.

    Args:
        denoiser: ``denoiser(x, sigma)`` returns the clean prediction; called ``table.nfe`` times with ``x`` in the
            dtype of ``noise`` and ``sigma`` a Python float.
        noise: First state, of any shape: ``table.sigmas[0]`` times standard normal noise (plus ``alphas[0]`` times a
            picture, for a start in the middle).
        table: The sampler.
        callback: Called after every network call with ``(k, sigma, x, prediction)``.
        first: What the network returns for ``noise``, where that is known: the first call is then not made.

    Returns:
        The last state, in the shape, dtype and device of ``noise``.

    Raises:
        InputError: ``noise`` is no floating-point tensor, or the denoiser returned another shape.
        NonFiniteError: the result holds NaN or infinity; names the first call whose output did, and its level.

    Examples:
        >>> import torch, longstride as ls
        >>> table = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.01, sigma_max=10.0))
        >>> x = ls.sample(lambda x, sigma: x / (1 + sigma**2), 10 * torch.randn(4, 2), table)
        >>> x.shape
        torch.Size([4, 2])
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise InputError(f"noise must be a floating-point tensor, got {getattr(noise, 'dtype', type(noise).__name__)}")
    run = Run(noise, table)
    for k in range(table.nfe):
        x = run.x
        prediction = denoiser(x, run.sigma) if k or first is None else first
        run.see(prediction)
        if callback is not None:
            callback(k, run.sigma, x, prediction)
        del x, prediction
        run.advance()
    result = run.x
    if callback is not raise_if_not_finite and not is_finite(result):
        # One look at the end, so that nothing waits for the device inside the loop; a second run names the call.
        sample(denoiser, noise, table, callback=raise_if_not_finite)
        raise NonFiniteError(f"the samples overflow {noise.dtype} although every network output is finite")
    return result


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity.

    A finite sum says so at a fraction of the cost of looking at every element; only a sum that is not, which may also
    have overflowed, needs the second look.
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
