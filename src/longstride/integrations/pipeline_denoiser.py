"""A diffusers pipeline as a network: a function of states and their time.

The pipeline is called as always, but with a scheduler whose ``step`` hands the guided prediction out and waits for the
next state. So whatever the pipeline does between the network and the scheduler is part of the function: guidance and
its rescaling, prompts, packing of latents, casting and offloading.

There are two ways to ask. A *true call* has the length, the times and the levels of the run that the question belongs
to, and stands at the question's step: the networks of the steps before are answered, not computed. A *standing call*
has a loop without an end, and takes any question at any time. It is for pipelines whose answers depend on the state and
the time alone, and a little faster. :mod:`longstride.integrations.inquiry` finds out which way a pipeline needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import told_levels
from longstride.integrations.call_arguments import CallArguments
from longstride.integrations.channel import Asked, Told
from longstride.integrations.inquiry import Keeps, depends_on_its_step
from longstride.integrations.layout import Layout
from longstride.integrations.live_call import Call
from longstride.integrations.live_calls import MOST_CALLS, LiveCalls
from longstride.integrations.setups import Setup

__all__ = ["PipelineDenoiser"]


class PipelineDenoiser:
    """A pipeline as a network, which predicts in batches of one size.

    It is called with states ``(B, *)``, their one time as ``(B,)``, and the numbers of the samples ``(B,)``. It returns
    the pipeline's guided predictions, shape ``(B, *)``. A question without a step, if answers depend on it, belongs to
    the step of the pipeline's own levels that is nearest in time.

    Args:
        pipeline: A diffusers pipeline. It is not changed.
        steps: Steps that it is asked for; they tell its own scheduler the levels.
        options: Arguments that all samples share, such as ``guidance_scale`` and ``height``.
        per_sample: Arguments with one entry per sample, such as ``prompt``; they are gone through in turn.
        seeds: One seed per sample.
        batch_size: Samples per call.
        scheduler: Settings of the scheduler, in place of the pipeline's; None for none.
        most_calls: Calls that stay alive at most.
        single: Whether the pipeline is called with one prompt and no lists; ``batch_size`` is then 1.

    Attributes:
        asked: Questions so far, in samples.
        calls: The live calls of the pipeline.
    """

    def __init__(
        self,
        pipeline: Any,
        steps: int,
        options: Mapping[str, Any],
        per_sample: Mapping[str, Sequence[Any]],
        seeds: Sequence[int],
        batch_size: int,
        scheduler: Mapping[str, Any] | None = None,
        *,
        most_calls: int = MOST_CALLS,
        single: bool = False,
    ) -> None:
        self.pipeline, self.batch_size, self.asked = pipeline, batch_size, 0
        arguments = CallArguments(steps, options, per_sample, seeds, scheduler, single)
        self.calls = LiveCalls(pipeline, arguments, most_calls)
        self._own: dict[tuple[int, ...], Tensor] = {}
        self._first: Call | None = None
        self._layout: Layout | None = None
        self._positional: bool | None = None
        self._keeps = False

    # The way to ask

    def decide(self) -> bool:
        """Find out whether answers depend on the step; see :mod:`longstride.integrations.inquiry`.

        Raises:
            InputError: answers depend on more than the state, its level and its step.
        """
        if self._positional is None:
            self._positional = depends_on_its_step(self)
        return self._positional

    @property
    def positional(self) -> bool:
        """Whether answers depend on the step, so that true calls are needed."""
        if self._positional is None:
            try:
                self.decide()
            except Keeps:  # every question then has a call of its own
                self._positional = self._keeps = True
        return bool(self._positional)

    def force(self, *, positional: bool) -> None:
        """Ask by true calls or by standing calls, without finding out."""
        self._positional = positional

    # Questions

    def __call__(self, x: Tensor, times: Tensor, index: Tensor) -> Tensor:
        time = times.flatten()[0]

        def ask(numbers: tuple[int, ...], part: Tensor) -> Tensor:
            if not self.positional:
                return self.standing(numbers, part, time)
            return self.true(numbers, part, *self._nearest(float(time), numbers, part))

        return self._in_parts(x, index, ask)

    def at(self, times: Array, ratios: Array, k: int) -> Callable[..., Tensor]:
        """The pipeline as one call of a run, called as the pipeline itself.

        Args:
            times: What the network is told at every call, shape ``(K,)``.
            ratios: ``sigma / alpha`` of every state, sigma itself for flows, shape ``(K + 1,)``.
            k: Number of the call.
        """
        told = Told(np.array(times, np.float64), np.array(ratios, np.float64))

        def ask(x: Tensor, times: Tensor, index: Tensor) -> Tensor:
            del times
            return self._in_parts(x, index, lambda numbers, part: self.true(numbers, part, told, k))

        return ask

    def _in_parts(self, x: Tensor, index: Tensor, ask: Callable[[tuple[int, ...], Tensor], Tensor]) -> Tensor:
        # One number for several states: runs of one sample that make their call together.
        numbers, size, outputs = index.expand(len(x)).tolist(), self.batch_size, []
        for begin in range(0, len(numbers), size):
            part, states = tuple(numbers[begin : begin + size]), x[begin : begin + size]
            count = len(part)
            if count < size and self.calls.arguments.for_batches_of(size):
                part += part[-1:] * (size - count)
                states = torch.cat([states, states[-1:].expand(size - count, *states.shape[1:])])
            outputs.append(ask(part, states)[:count].to(x))
        return torch.cat(outputs)

    def standing(self, numbers: tuple[int, ...], x: Tensor, time: Tensor) -> Tensor:
        """The prediction of a standing call for states ``x`` ``(b, *)`` of some samples, at any time."""
        call = self.calls.find(numbers, lambda one: one.probe.standing)
        if call is None:
            _ = self.first
            call = self.calls.begin(numbers, Asked(None, 0), standing=True)
        return self._answer(numbers, call, Asked(self.layout.pipeline(x), call.position, time))

    def true(self, numbers: tuple[int, ...], x: Tensor, told: Told, k: int, *, fresh: bool = False) -> Tensor:
        """The prediction of a true call for states of some samples.

        Args:
            numbers: Numbers of the samples.
            x: States, shape ``(b, *)``.
            told: What the run tells the network.
            k: Number of the step.
            fresh: Whether a new call is begun, and the calls before are of no use to it.

        Raises:
            InputError: the first step is asked for states that cannot be put there, or the pipeline cannot be driven
                from outside. Errors of the pipeline itself are raised as they are.
        """
        state: Tensor | None = self.layout.pipeline(x)
        if k == 0:
            if not self._can_begin(numbers, x):
                raise InputError(
                    "this pipeline makes its first state in a way that calibration cannot follow: its first step can "
                    "be asked for the pipeline's own noise alone"
                )
            state = state if self._knows_first(numbers) else None
        elif not (fresh or self._keeps):
            call = self.calls.find(numbers, lambda one: told.same(one.told) and one.position <= k)
            if call is not None:
                return self._answer(numbers, call, Asked(state, k))
        self.asked += len(numbers)
        return self.layout.predictions(self.calls.begin(numbers, Asked(state, k), told), len(numbers))

    def run_out(self, numbers: tuple[int, ...], told: Told) -> None:
        """Let the true call of a run come to its last step; its networks are answered on the way."""
        call = self.calls.find(numbers, lambda one: told.same(one.told))
        if call is not None:
            self.calls.ask(call, Asked(None, told.calls - 1, answered=True))

    def _answer(self, numbers: tuple[int, ...], call: Call, asked: Asked) -> Tensor:
        self.asked += len(numbers)
        return self.layout.predictions(self.calls.ask(call, asked), len(numbers))

    def _nearest(self, time: float, numbers: tuple[int, ...], x: Tensor) -> tuple[Told, int]:
        """The run of the pipeline's own levels, told a time at its nearest step, and the number of that step."""
        base = self.told
        k = int(np.abs(base.times - time).argmin())
        if k == 0 and base.calls > 1 and not self._can_begin(numbers, x):
            k = 1
        times, ratios = base.times.copy(), base.ratios.copy()
        if not np.isclose(times[k], time, rtol=1e-6, atol=0):
            process = self.setup.settings.noise_process
            times[k], ratios[k] = time, told_levels(process.family, *process.noise_levels([time]))[0]
        return Told(times, ratios), k

    # What the pipeline itself decides

    @property
    def first(self) -> Call:
        """The pipeline's call for the first batch at its own levels, as it stood after its first network call.

        Raises:
            InputError: the pipeline cannot be driven from outside. Errors of the pipeline itself are raised as they
                are.
        """
        if self._first is None:
            numbers = tuple(range(self.batch_size))
            call = self.calls.begin_first(numbers)
            self._layout = Layout.of(call.state, len(numbers))
            self._keep_own(numbers, call)
            self._first, self.calls.base = call, call.probe.setup
            self.asked += self.batch_size
        return self._first

    @property
    def setup(self) -> Setup:
        """What the pipeline's own ``set_timesteps`` decides."""
        return self.first.probe.setup

    @property
    def told(self) -> Told:
        """What the network is told at the pipeline's own levels."""
        plan = self.setup.plan
        return Told(np.array(plan.times, np.float64), np.array(plan.ratios, np.float64))

    @property
    def layout(self) -> Layout:
        """How samples lie in the states of the pipeline."""
        _ = self.first
        assert self._layout is not None
        return self._layout

    def states(self, count: int) -> Tensor:
        """First states of the samples from 0 to ``count``, float32, shape ``(count, *)``."""
        batches = [range(begin, begin + self.batch_size) for begin in range(0, count, self.batch_size)]
        return torch.cat([self._own_of(tuple(numbers)).float() for numbers in batches])

    def handed(self) -> Tensor:
        """What the pipeline hands to its scheduler at the first step of the first batch, as it is."""
        numbers = tuple(range(self.batch_size))
        call = self.calls.begin(numbers, Asked(None, 0))
        self.asked += len(numbers)
        self.calls.drop(call)
        return call.output

    def _own_of(self, numbers: tuple[int, ...]) -> Tensor:
        """The pipeline's own first state of some samples, shape ``(b, *)``; no network is computed for it."""
        _ = self.first
        if numbers not in self._own:
            self._keep_own(numbers, self.calls.begin(numbers, Asked(None, 0, answered=True)))
        return self._own[numbers]

    def _keep_own(self, numbers: tuple[int, ...], call: Call) -> None:
        assert self._layout is not None
        self._own[numbers] = self._layout.samples(call.state, len(numbers)).clone()
        self.calls.first_state.learn(call.state)
        self.calls.drop(call)

    def _can_begin(self, numbers: tuple[int, ...], x: Tensor) -> bool:
        """Whether the first step can be asked for states ``x`` ``(b, *)`` of some samples."""
        if self._knows_first(numbers):
            return True
        own = self._own_of(numbers).to(x)
        return bool(torch.allclose(own, x, rtol=1e-5, atol=1e-6 * float(own.abs().max())))

    def _knows_first(self, numbers: tuple[int, ...]) -> bool:
        """Whether other first states can be put in place of the pipeline's own."""
        own = self.layout.pipeline(self._own_of(numbers))
        return self.calls.first_state.known(len(own))

    # The end

    def end(self) -> None:
        """End all calls that are alive; others may follow."""
        self.calls.end()

    def close(self) -> None:
        """End all calls, and leave the pipeline as a call of its own leaves it."""
        self.calls.close()
