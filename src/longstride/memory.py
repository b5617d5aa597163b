"""What a run keeps in memory: states and outputs that a later row may still read, and sums of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from longstride.table import Row

__all__ = ["History"]


class History:
    """The states and outputs of one run that a later row may still read.

    States are kept and rows are summed in float32 or better, even if the network works in half precision. Weights reach
    the tensors as Python floats, so that nothing waits for the device.

    A tensor that the caller gives is borrowed: the caller may write into it later, as pipelines and networks with a
    buffer do. It is copied when it outlives the row after it, and not before.

    Attributes:
        dtype: Precision of the states, float32 or better.
        states: Kept states by index.
        outputs: Kept network outputs by index.
    """

    def __init__(self, noise: Tensor) -> None:
        self.dtype = torch.promote_types(noise.dtype, torch.float32)
        self.states: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        #: Indices of the borrowed state and output. There is one of each at the most: a row owns what it leaves.
        self._borrowed: list[int | None] = [None, None]
        self.put(0, noise)

    def put(self, k: int, x: Tensor) -> None:
        """Take the caller's tensor as state ``k``."""
        self.states[k] = x.to(self.dtype)
        self._borrowed[0] = k if x.dtype == self.dtype else None

    def put_output(self, k: int, prediction: Tensor, *, fresh: bool) -> None:
        """Take output ``k``; ``fresh``: nobody else holds it, so it is not borrowed."""
        self.outputs[k] = prediction
        self._borrowed[1] = None if fresh else k

    def own(self) -> None:
        """Copy what is borrowed."""
        state, output = self._borrowed
        if state in self.states:
            self.states[state] = self.states[state].clone()
        if output in self.outputs:
            self.outputs[output] = self.outputs[output].clone()
        self._borrowed = [None, None]

    def combine(self, row: Row) -> Tensor:
        """Value of ``row``; a new tensor."""
        terms = [(weight, self.states[i]) for i, weight in row.states.items()]
        terms += [(weight, self.outputs[j]) for j, weight in row.outputs.items()]
        (weight, tensor), *rest = terms
        total = tensor.to(self.dtype, copy=True).mul_(weight) if tensor.dtype != self.dtype else tensor * weight
        for weight, tensor in rest:
            total.add_(tensor, alpha=weight)
        return total

    def selected(self, index: Tensor) -> History:
        """The history of some samples, ``(b,)``: a copy."""
        other = copy(self)
        other.states = {k: x[index] for k, x in self.states.items()}
        other.outputs = {k: x[index] for k, x in self.outputs.items()}
        other._borrowed = [None, None]
        return other

    def copied(self) -> History:
        """The same history; its tensors are shared, and nothing is borrowed."""
        self.own()
        other = copy(self)
        other.states, other.outputs, other._borrowed = dict(self.states), dict(self.outputs), [None, None]
        return other

    def forget(self, last_readers: tuple[Sequence[int], Sequence[int]], k: int) -> None:
        """Free the states and outputs that no row after row ``k`` reads; see :attr:`SolverTable.last_reader`."""
        for kept, last_reader in zip((self.states, self.outputs), last_readers, strict=True):
            for index in [i for i in kept if last_reader[i] <= k]:
                del kept[index]
