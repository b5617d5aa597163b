"""A diffusers pipeline as a network: a function of states and their time.

The pipeline is called as always, but with a scheduler whose ``step`` hands the guided prediction out and waits for the
next state. So whatever the pipeline does between the network and the scheduler is part of the function: guidance and
its rescaling, prompts, packing of latents, casting and offloading.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longstride.integrations.probe import Call, Probe

__all__ = ["MOST_CALLS", "CallArguments", "PipelineDenoiser", "parameters_of"]

#: Live calls of a pipeline that are kept waiting: its embeddings are computed once per batch of prompts.
MOST_CALLS = 64


def parameters_of(pipeline: Any) -> set[str]:
    """Names of the arguments that a pipeline's call takes."""
    return set(inspect.signature(type(pipeline).__call__).parameters)


@dataclass(frozen=True)
class CallArguments:
    """What a pipeline is called with, for any of its samples.

    Attributes:
        steps: Steps that it is asked for; they tell its own scheduler the levels.
        options: Arguments that all samples share, such as ``guidance_scale`` and ``height``.
        per_sample: Arguments with one entry per sample, such as ``prompt``; they are gone through in turn.
        seeds: One seed per sample.
        scheduler: Settings of the scheduler, in place of the pipeline's; None for none.
    """

    steps: int
    options: Mapping[str, Any]
    per_sample: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    scheduler: Mapping[str, Any] | None = None

    @property
    def identity(self) -> str:
        """A name for what is asked of the pipeline: a journal of other prompts or options is another journal."""
        return hashlib.sha256(repr((self.options, self.per_sample, self.scheduler)).encode()).hexdigest()[:16]

    def of(self, numbers: Sequence[int], pipeline: Any) -> dict[str, Any]:
        """Arguments of the call for some samples.

        Args:
            numbers: Numbers of the samples, from 0.
            pipeline: The pipeline that is called.
        """
        own = {name: [values[n % len(values)] for n in numbers] for name, values in self.per_sample.items()}
        generators = [torch.Generator().manual_seed(self.seeds[n]) for n in numbers]
        asked = {"generator": generators, "num_inference_steps": self.steps, "output_type": "latent"}
        if "batch_size" in parameters_of(pipeline):
            asked |= {"batch_size": len(numbers), "output_type": "np"}
        return {**asked, **own, **self.options}


class PipelineDenoiser:
    """A pipeline as a network, which predicts in batches of one size.

    It is called with states ``(B, *)``, their one time as ``(B,)``, and the numbers of the samples ``(B,)``. It returns
    the pipeline's guided predictions, shape ``(B, *)``. Every batch of numbers has a call of the pipeline of its own,
    which stays alive.

    Args:
        pipeline: A diffusers pipeline. It is not changed.
        arguments: What it is called with.
        batch_size: Samples per call.
        most_calls: Calls that stay alive at most.
    """

    def __init__(
        self, pipeline: Any, arguments: CallArguments, batch_size: int, *, most_calls: int = MOST_CALLS
    ) -> None:
        self.pipeline, self.arguments = pipeline, arguments
        self.batch_size, self.most_calls = batch_size, most_calls
        self._calls: OrderedDict[tuple[int, ...], Call] = OrderedDict()

    def __call__(self, x: Tensor, times: Tensor, index: Tensor) -> Tensor:
        # One number for several states: runs of one sample that make their call together.
        numbers, time = index.expand(len(x)).tolist(), times.flatten()[0]
        outputs = []
        for begin in range(0, len(numbers), self.batch_size):
            part = tuple(numbers[begin : begin + self.batch_size])
            call = self.call(part)
            outputs.append(call(x[begin : begin + len(part)].to(call.state.dtype), time).to(x))
        return torch.cat(outputs)

    @property
    def first(self) -> Call:
        """The live call for the first batch."""
        return self.call(tuple(range(self.batch_size)))

    @property
    def live(self) -> tuple[Call, ...]:
        """The calls that are alive; the call that was used last is at the end."""
        return tuple(self._calls.values())

    def call(self, numbers: tuple[int, ...]) -> Call:
        """The live call for some samples; it is begun if there is none.

        Args:
            numbers: Numbers of the samples, from 0.

        Raises:
            InputError: the pipeline cannot be driven from outside. Errors of the pipeline itself are raised as they
                are.
        """
        if numbers not in self._calls:
            while len(self._calls) >= self.most_calls:
                self._calls.popitem(last=False)[1].end()
            probe = Probe.from_config(self.pipeline.scheduler.config, **(self.arguments.scheduler or {}))
            options = self.arguments.of(numbers, self.pipeline)
            self._calls[numbers] = Call(self.pipeline, probe, options, len(numbers))
        self._calls.move_to_end(numbers)
        return self._calls[numbers]

    def states(self, count: int) -> Tensor:
        """First states of the samples from 0 to ``count``, float32, shape ``(count, *)``."""
        starts = range(0, count, self.batch_size)
        return torch.cat([self.call(tuple(range(b, b + self.batch_size))).state.float() for b in starts])

    def close(self) -> None:
        """End all calls."""
        while self._calls:
            self._calls.popitem()[1].end()
