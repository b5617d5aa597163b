"""How the samples of a call lie in the states of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longstride.errors import InputError
from longstride.integrations.live_call import Call

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """How the samples of a call lie in the states of a pipeline.

    Attributes:
        shape: Shape of the pipeline's states without the batch.
        copies: How many times the pipeline carries all samples, one after the other: DiT's carries every state twice,
            once for each side of guidance.
        rows: States per sample, such as one for every frame of a video.
    """

    shape: tuple[int, ...]
    copies: int
    rows: int

    @staticmethod
    def of(state: Tensor, size: int) -> Layout:
        """The layout of a pipeline's first state.

        Args:
            state: The state, shape ``(B, *)``.
            size: Number of samples.

        Raises:
            InputError: B is no multiple of the number of samples.
        """
        times, rest = divmod(len(state), size)
        if rest or not times:
            raise InputError(
                f"the pipeline makes {len(state)} states for {size} samples: expected a multiple, so leave out options "
                "that change the number of pictures"
            )
        first = state[:size]
        copies = all(torch.equal(part, first) for part in torch.split(state, size))
        return Layout(tuple(state.shape[1:]), times if copies else 1, 1 if copies else times)

    def pipeline(self, x: Tensor) -> Tensor:
        """States of samples, shape ``(b, *)`` or ``(b, rows, *)``, as the pipeline has them."""
        return torch.cat([x] * self.copies) if self.rows == 1 else x.flatten(0, 1)

    def samples(self, state: Tensor, size: int) -> Tensor:
        """States of the pipeline as states of ``size`` samples."""
        return state[:size] if self.rows == 1 else state.reshape(size, self.rows, *state.shape[1:])

    def predictions(self, call: Call, size: int) -> Tensor:
        """The last prediction of a call, without a learned variance, in the layout of :meth:`samples`."""
        out, width = call.output, call.state.shape[1:2]
        if out.ndim > 1 and (out.shape[1],) == tuple(2 * n for n in width):
            out = out[:, : width[0]]
        return self.samples(out, size)
