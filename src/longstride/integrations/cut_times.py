"""Times that notice how far a pipeline goes through them: a card is for whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["CutTimes"]


class CutTimes(Tensor):
    """Network times as a tensor that says where a loop over it ends.

    It is a tensor in all else. Its elements, and the results of all operations but slices and ``to``, are plain
    tensors.

    Attributes:
        begin: Index of its first time among the times of the run.
        notice: Called with the index behind the last time, whenever a loop over the times begins.
    """

    begin: int
    notice: Callable[[int], None]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(times: Tensor, notice: Callable[[int], None], begin: int = 0) -> CutTimes:
        """The times ``(n,)`` of a run from call ``begin`` on."""
        made = times.as_subclass(CutTimes)
        made.begin, made.notice = begin, notice
        return made

    def __iter__(self) -> Iterator[Tensor]:
        self.notice(self.begin + len(self))
        return iter(self.as_subclass(Tensor))

    def __getitem__(self, index: Any) -> Tensor:
        found: Tensor = self.as_subclass(Tensor)[index]
        if not isinstance(index, slice) or (index.step or 1) != 1:
            return found
        return CutTimes.of(found, self.notice, self.begin + index.indices(len(self))[0])

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As that of a tensor; the result notices, too."""
        return CutTimes.of(self.as_subclass(Tensor).to(*args, **kwargs), self.notice, self.begin)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.as_subclass(Tensor).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]
