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
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError, LongstrideError
from longstride.integrations.answered import Answers
from longstride.integrations.call_arguments import CallArguments
from longstride.integrations.inquiry import Keeps, depends_on_its_step
from longstride.integrations.layout import Layout
from longstride.integrations.live_call import Call
from longstride.integrations.pipeline_copy import FirstState, Hooks, copied, modules_of
from longstride.integrations.probe import Asked, Channel, Probe, Told
from longstride.integrations.remembered import Remembered
from longstride.integrations.setups import Setup

__all__ = ["MOST_CALLS", "PipelineDenoiser"]

#: Live calls of a pipeline that are kept waiting.
MOST_CALLS = 64


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
        computed: Questions that were asked so far, in samples.
        patterns: What the steps of the call that was asked last have called, see :mod:`.answered`.
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
        self.pipeline = pipeline
        self.arguments = CallArguments(steps, options, per_sample, seeds, scheduler, single)
        self.batch_size, self.most_calls, self.computed = batch_size, most_calls, 0
        self._calls: list[tuple[tuple[int, ...], Call]] = []
        self._remembered = Remembered()
        self._answers = Answers(modules_of(pipeline), self._remembered)
        self._first, self._hooks = FirstState(), Hooks(pipeline)
        self._own: dict[tuple[int, ...], Tensor] = {}
        self._layout: Layout | None = None
        self._base: Setup | None = None
        self._probe: Probe | None = None
        self._positional: bool | None = None
        self._kept = False
        self.patterns: list[tuple[Any, ...]] = []

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
                self._positional = self._kept = True
        return bool(self._positional)

    def force(self, *, positional: bool) -> None:
        """Ask by true calls or by standing calls, without finding out."""
        self._positional = positional

    # Questions

    def __call__(self, x: Tensor, times: Tensor, index: Tensor) -> Tensor:
        if not self.positional:
            return self._in_parts(x, index, lambda numbers, part: self.standing(numbers, part, times.flatten()[0]))
        time = float(times.flatten()[0])
        return self._in_parts(
            x, index, lambda numbers, part: self.true(numbers, part, *self._nearest(time, numbers, part))
        )

    def at(self, times: Array, ratios: Array, k: int) -> Callable[..., Tensor]:
        """The pipeline as one call of a run, called as the pipeline itself.

        Args:
            times: What the network is told at every call, shape ``(K,)``.
            ratios: ``sigma / alpha`` of every state, sigma itself for flows, shape ``(K + 1,)``.
            k: Number of the call.
        """
        told = Told(np.array(times, np.float64), np.array(ratios, np.float64))

        def asked(x: Tensor, times: Tensor, index: Tensor) -> Tensor:
            del times
            return self._in_parts(x, index, lambda numbers, part: self.true(numbers, part, told, k))

        return asked

    def _in_parts(self, x: Tensor, index: Tensor, ask: Callable[[tuple[int, ...], Tensor], Tensor]) -> Tensor:
        # One number for several states: runs of one sample that make their call together.
        numbers = index.expand(len(x)).tolist()
        outputs = []
        for begin in range(0, len(numbers), self.batch_size):
            part, states = tuple(numbers[begin : begin + self.batch_size]), x[begin : begin + self.batch_size]
            count = len(part)
            if count < self.batch_size and self.arguments.for_batches_of(self.batch_size):
                part += part[-1:] * (self.batch_size - count)
                states = torch.cat([states, states[-1:].expand(self.batch_size - count, *states.shape[1:])])
            outputs.append(ask(part, states)[:count].to(x))
        return torch.cat(outputs)

    def _nearest(self, time: float, numbers: tuple[int, ...], x: Tensor) -> tuple[Told, int]:
        """The run of the pipeline's own levels, told a time at its nearest step, and the number of that step."""
        base = self.told
        k = int(np.abs(base.times - time).argmin())
        if k == 0 and base.calls > 1 and not self._can_begin(numbers, x):
            k = 1
        times, ratios = base.times.copy(), base.ratios.copy()
        if not np.isclose(times[k], time, rtol=1e-6, atol=0):
            alpha, sigma = (float(level[0]) for level in self.setup.settings.noise_levels(np.array([time])))
            flow = self.setup.settings.process == "flow"
            times[k], ratios[k] = time, sigma if flow else np.inf if alpha == 0 else sigma / alpha
        return Told(times, ratios), k

    # What the pipeline itself decides

    @property
    def begun(self) -> bool:
        """Whether the pipeline has come to its loop."""
        return self._probe is not None

    @property
    def probe(self) -> Probe:
        """A scheduler of the pipeline's settings, after ``set_timesteps``; it belongs to a call for the first batch.

        Raises:
            InputError: the pipeline cannot be driven from outside. Errors of the pipeline itself are raised as they
                are.
        """
        if self._probe is None:
            call = self._first_call()
            self._keep_first(self._batch(0), call)
            self._probe, self._base = call.probe, call.probe.setup
            self.computed += self.batch_size
            call.end()
        return self._probe

    def _first_call(self) -> Call:
        """A call for the first batch, which also tells whether the pipeline can be asked for latents."""
        asked = Asked(None, 0)
        try:
            return self._begin(self._batch(0), asked, None, standing=False)
        except (LongstrideError, torch.OutOfMemoryError):
            raise
        except Exception:
            self.arguments = replace(self.arguments, latent=False)
            try:
                return self._begin(self._batch(0), asked, None, standing=False)
            except Exception:
                self.arguments = replace(self.arguments, latent=True)
            raise

    @property
    def setup(self) -> Setup:
        """What the pipeline's own ``set_timesteps`` decides."""
        return self.probe.setup

    @property
    def told(self) -> Told:
        """What the network is told at the pipeline's own levels."""
        plan = self.setup.plan
        return Told(np.array(plan.times, np.float64), np.array(plan.ratios, np.float64))

    def states(self, count: int) -> Tensor:
        """First states of the samples from 0 to ``count``, float32, shape ``(count, *)``."""
        _ = self.probe
        found = []
        for begin in range(0, count, self.batch_size):
            found.append(self._first_of(self._batch(begin)).float())
        return torch.cat(found)

    def handed(self) -> Tensor:
        """What the pipeline hands to its scheduler at the first step of the first batch, as it is."""
        call = self._begin(self._batch(0), Asked(None, 0), None, standing=False)
        self.computed += self.batch_size
        call.end()
        return call.prediction

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state as the pipeline's scheduler sees it, without the batch."""
        _ = self.probe
        assert self._layout is not None
        return self._layout.shape

    def _first_of(self, numbers: tuple[int, ...]) -> Tensor:
        """The pipeline's own first state of some samples, shape ``(b, *)``; no network is computed for it."""
        if numbers not in self._own:
            call = self._begin(numbers, Asked(None, 0, answered=True), None, standing=False)
            self._keep_first(numbers, call)
            call.end()
        return self._own[numbers]

    def _can_begin(self, numbers: tuple[int, ...], x: Tensor) -> bool:
        """Whether the first step can be asked for states ``x`` ``(b, *)`` of some samples."""
        if self._knows_first(numbers):
            return True
        own = self._first_of(numbers).to(x)
        return bool(torch.allclose(own, x, rtol=1e-5, atol=1e-6 * float(own.abs().max())))

    def _knows_first(self, numbers: tuple[int, ...]) -> bool:
        """Whether other first states can be put in place of those of some samples."""
        assert self._layout is not None
        size = len(numbers) * self._layout.copies * self._layout.rows
        if not self._first.known(size):
            self._own.pop(numbers, None)
            self._first_of(numbers)
        return self._first.known(size)

    def _batch(self, begin: int) -> tuple[int, ...]:
        return tuple(range(begin, begin + self.batch_size))

    def _keep_first(self, numbers: tuple[int, ...], call: Call) -> None:
        if self._layout is None:
            self._layout = Layout.of(call.state, len(numbers))
        self._own[numbers] = self._layout.samples(call.state, len(numbers)).clone()
        self._first.learn(call.state)

    # Calls

    @property
    def live(self) -> tuple[Call, ...]:
        """The calls that are alive; the call that was used last is at the end."""
        return tuple(call for _, call in self._calls)

    def standing(self, numbers: tuple[int, ...], x: Tensor, time: Tensor) -> Tensor:
        """The prediction of a standing call for states ``x`` ``(b, *)`` of some samples, at any time."""
        _ = self.probe
        call = self._live(lambda one: one.probe.standing, numbers)
        if call is None:
            call = self._begin(numbers, Asked(None, 0), None, standing=True)
            self._calls.append((numbers, call))
        return self._asked(numbers, call, x, call.position, time)

    def true(self, numbers: tuple[int, ...], x: Tensor, told: Told, k: int, *, fresh: bool = False) -> Tensor:
        """The prediction of a true call for states of some samples.

        Args:
            numbers: Numbers of the samples.
            x: States, shape ``(b, *)``.
            told: What the run tells the network.
            k: Number of the step.
            fresh: Whether a new call is begun, and the calls before are of no use to it.
        """
        _ = self.probe
        call = None
        if k and not (fresh or self._kept):
            call = self._live(lambda one: told.same(one.told) and one.position <= k, numbers)
        if call is not None:
            return self._asked(numbers, call, x, k, None)
        assert self._layout is not None
        state: Tensor | None = self._layout.pipeline(x)
        if k == 0 and not self._knows_first(numbers):
            if not self._can_begin(numbers, x):
                raise InputError(
                    "this pipeline makes its first state in a way that calibration cannot follow: its first step can "
                    "be asked for the pipeline's own noise alone"
                )
            state = None
        asked = Asked(state, k)
        call = self._begin(numbers, asked, told, standing=False)
        self.computed += len(numbers)
        self.patterns = call.channel.patterns
        if call.position < told.calls:
            self._calls.append((numbers, call))
        else:
            call.end()
        return self._layout.predictions(call, len(numbers))

    def _live(self, fits: Callable[[Call], bool], numbers: tuple[int, ...]) -> Call | None:
        """The call that has come furthest among the live calls that fit; it becomes the last."""
        fitting = [(n, call) for n, (own, call) in enumerate(self._calls) if own == numbers and fits(call)]
        if not fitting:
            return None
        n, call = max(fitting, key=lambda found: found[1].position)
        self._calls.append(self._calls.pop(n))
        return call

    def _asked(self, numbers: tuple[int, ...], call: Call, x: Tensor, k: int, time: Tensor | None) -> Tensor:
        assert self._layout is not None
        self.computed += len(numbers)
        try:
            call.ask(Asked(self._layout.pipeline(x), k, time))
        except BaseException:
            self._drop(call)
            raise
        self.patterns = call.channel.patterns
        if call.told is not None and call.position >= call.told.calls:
            self._drop(call)
        return self._layout.predictions(call, len(numbers))

    def _drop(self, call: Call) -> None:
        self._calls = [(numbers, one) for numbers, one in self._calls if one is not call]
        call.end()

    def _begin(self, numbers: tuple[int, ...], asked: Asked, told: Told | None, *, standing: bool) -> Call:
        """A new call for some samples, at the step that is asked for.

        Raises:
            InputError: the pipeline cannot be driven from outside. Errors of the pipeline itself are raised as they
                are.
        """
        while len(self._calls) >= self.most_calls:
            self._drop(self._calls[0][1])
        self._hooks.reset()
        probe = Probe.from_config(self.pipeline.scheduler.config, **(self.arguments.scheduler or {}))
        probe.connect(Channel(asked, self._answers), told, self._base, standing=standing)
        mine = copied(self.pipeline, probe, self._remembered, self._first, asked.x if asked.k == 0 else None)
        steps = None if told is None else told.calls
        return Call(mine, probe, self.arguments.of(numbers, self.pipeline, steps))

    def end(self) -> None:
        """End all calls that are alive; others may follow."""
        while self._calls:
            self._drop(self._calls[-1][1])

    def close(self) -> None:
        """End all calls, and leave the pipeline as a call of its own leaves it."""
        self.end()
        self._hooks.put_back()
