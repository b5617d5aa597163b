"""What a pipeline is called with, for any of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longstride.integrations.anatomy import takes
from longstride.integrations.remembered import Unreadable, content_of

__all__ = ["CallArguments"]


@dataclass(frozen=True)
class CallArguments:
    """What a pipeline is called with, for any of its samples.

    Attributes:
        steps: Steps that it is asked for; they tell its own scheduler the levels.
        options: Arguments that all samples share, such as ``guidance_scale`` and ``height``.
        per_sample: Arguments with one entry per sample, such as ``prompt``; they are gone through in turn.
        seeds: One seed per sample.
        scheduler: Settings of the scheduler, in place of the pipeline's; None for none.
        single: Whether one sample is called by its own entries, not by lists of one entry.
        latent: Whether the pipeline is asked for latents, which saves it from decoding a run that it leaves early.
    """

    steps: int
    options: Mapping[str, Any]
    per_sample: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    scheduler: Mapping[str, Any] | None = None
    single: bool = False
    latent: bool = True

    @property
    def identity(self) -> str:
        """A name for what is asked of the pipeline: a journal of other prompts or options is another journal."""
        return content_of([_readable(part) for part in (self.options, self.per_sample, self.scheduler)])[:16]

    def for_batches_of(self, size: int) -> bool:
        """Whether an option that all samples share is made for batches of one size: a list or tensor so long."""
        shared = [one for one in self.options.values() if isinstance(one, (list, tuple, Tensor))]
        return size > 1 and any(not (isinstance(one, Tensor) and one.ndim == 0) and len(one) == size for one in shared)

    def of(self, numbers: Sequence[int], pipeline: Any, steps: int | None = None) -> dict[str, Any]:
        """Arguments of the call for some samples.

        Args:
            numbers: Numbers of the samples, from 0.
            pipeline: The pipeline that is called.
            steps: Steps of the call; default: :attr:`steps`.
        """
        own = {name: _entries(values, numbers, self.single) for name, values in self.per_sample.items()}
        generators = [torch.Generator().manual_seed(self.seeds[n]) for n in numbers]
        asked: dict[str, Any] = {
            "generator": generators[0] if self.single else generators,
            "num_inference_steps": self.steps if steps is None else steps,
        }
        taken = takes(pipeline)
        if self.latent and "output_type" in taken:
            asked["output_type"] = "latent"
        if "batch_size" in taken:
            asked |= {"batch_size": len(numbers), "output_type": "np"}
        return {**asked, **own, **self.options}


def _entries(values: Sequence[Any], numbers: Sequence[int], single: bool) -> Any:
    """The entries of some samples, gone through in turn: a tensor if the entries are those of a tensor."""
    places = [n % len(values) for n in numbers]
    if isinstance(values, Tensor):
        return values[places]
    found = [values[n] for n in places]
    return found[0] if single else found


def _readable(value: Any) -> Any:
    """A value whose content can be told, in place of one that cannot."""
    if isinstance(value, Mapping):
        return {str(name): _readable(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_readable(one) for one in value]
    try:
        content_of(value)
    except Unreadable:
        return repr(value)
    return value
