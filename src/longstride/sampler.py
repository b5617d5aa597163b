"""The only sampling loop: it runs a table, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from longstride.errors import InputError, NonFiniteError
from longstride.table import Row, SolverTable

__all__ = ["Callback", "DenoiserLike", "History", "sample"]


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

    def forget(self, table: SolverTable, k: int) -> None:
        """Free what no row after row ``k`` of ``table`` reads."""
        for kept, last_reader in zip((self.states, self.outputs), table.last_reader, strict=True):
            for index in [i for i in kept if last_reader[i] <= k]:
                del kept[index]


@torch.inference_mode()
def sample(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    callback: Callback | None = None,
    rewrite: Callable[[int, History], Row] | None = None,
) -> Tensor:
    """Draw samples: run ``table`` from ``noise``.

    Args:
        denoiser: ``denoiser(x, sigma)`` returns the clean prediction; called ``table.nfe`` times with ``x`` in the
            dtype of ``noise`` and ``sigma`` a Python float.
        noise: First state, of any shape: ``table.sigmas[0]`` times standard normal noise (plus ``alphas[0]`` times a
            picture, for a start in the middle).
        table: The sampler.
        callback: Called after every network call with ``(k, sigma, x, prediction)``.
        rewrite: Gives row ``k`` (1 … K) from what was seen so far, in place of the table's own; used to calibrate.
            Nothing is freed then.

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
    history = History(noise)
    levels = table.sigmas.tolist()
    for k, own_row in enumerate(table.rows):
        x = history.states[k].to(noise.dtype)
        prediction = denoiser(x, levels[k])
        if prediction.shape != noise.shape:
            raise InputError(
                f"the denoiser returned shape {tuple(prediction.shape)} for a state of shape {tuple(noise.shape)} "
                f"at call {k + 1} of {table.nfe}"
            )
        history.outputs[k] = prediction
        if callback is not None:
            callback(k, levels[k], x, prediction)
        del x, prediction
        row = own_row if rewrite is None else rewrite(k + 1, history)
        history.states[k + 1] = history.combine(row)
        if rewrite is None:
            history.forget(table, k + 1)
    result = history.states[table.nfe].to(noise.dtype)
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
