"""The calls of a pipeline that are held inside their loops, and how they are begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from longstride.errors import LongstrideError
from longstride.integrations.answered import Answers
from longstride.integrations.call_arguments import CallArguments
from longstride.integrations.channel import Asked, Channel, Told
from longstride.integrations.live_call import Call
from longstride.integrations.origins import named
from longstride.integrations.pipeline_copy import FirstState, Hooks, copied, modules_of
from longstride.integrations.probe import Probe
from longstride.integrations.remembered import Remembered
from longstride.integrations.setups import Setup

__all__ = ["MOST_CALLS", "LiveCalls"]

#: Live calls of a pipeline that are kept waiting.
MOST_CALLS = 64


class LiveCalls:
    """The live calls of a pipeline.

    Args:
        pipeline: The pipeline. It is not changed.
        arguments: What it is called with.
        most_calls: Calls that stay alive at most.

    Attributes:
        arguments: As above.
        first_state: Where the pipeline makes its first state.
        base: What ``set_timesteps`` decides in all calls to come; None: what the pipeline asks for.
        patterns: What the steps of the call that was asked last have called, see :mod:`.answered`.
    """

    def __init__(self, pipeline: Any, arguments: CallArguments, most_calls: int = MOST_CALLS) -> None:
        self.pipeline, self.arguments, self.most_calls = pipeline, arguments, most_calls
        self.first_state = FirstState()
        self.base: Setup | None = None
        self.patterns: list[tuple[Any, ...]] = []
        self._remembered, self._hooks = Remembered(), Hooks(pipeline)
        self._answers = Answers(modules_of(pipeline), self._remembered)
        self._calls: list[tuple[tuple[int, ...], Call]] = []

    @property
    def live(self) -> tuple[Call, ...]:
        """The calls that are alive; the call that was used last is at the end."""
        return tuple(call for _, call in self._calls)

    def find(self, numbers: tuple[int, ...], fits: Callable[[Call], bool]) -> Call | None:
        """The call for some samples that has come furthest among the live calls that fit; it becomes the last."""
        fitting = [(n, call) for n, (own, call) in enumerate(self._calls) if own == numbers and fits(call)]
        if not fitting:
            return None
        n, call = max(fitting, key=lambda found: found[1].position)
        self._calls.append(self._calls.pop(n))
        return call

    def ask(self, call: Call, asked: Asked) -> Call:
        """Ask a live call. A call that has made its last step, or fails, ends."""
        try:
            call.ask(asked)
        except BaseException:
            self.drop(call)
            raise
        return self._kept(call)

    def _kept(self, call: Call) -> Call:
        self.patterns = call.channel.patterns
        if call.told is not None and call.position >= call.told.calls:
            self.drop(call)
        return call

    def drop(self, call: Call) -> None:
        """End a call."""
        self._calls = [(numbers, one) for numbers, one in self._calls if one is not call]
        call.end()

    def begin(
        self, numbers: tuple[int, ...], asked: Asked, told: Told | None = None, *, standing: bool = False
    ) -> Call:
        """A new call for some samples, which stays alive.

        Args:
            numbers: Numbers of the samples.
            asked: The first question.
            told: What the run tells the network; None: what the scheduler's own levels tell.
            standing: Whether the loop has no end.

        Raises:
            InputError: the pipeline cannot be driven from outside. Errors of the pipeline itself are raised as they
                are.
        """
        while len(self._calls) >= self.most_calls:
            self.drop(self._calls[0][1])
        self._hooks.reset()
        probe = Probe.from_config(named(self.pipeline.scheduler), **(self.arguments.scheduler or {}))
        probe.connect(Channel(asked, self._answers), told, self.base, standing=standing)
        x: Tensor | None = asked.x if asked.k == 0 else None
        mine = copied(self.pipeline, probe, self._remembered, self.first_state, x)
        steps = None if told is None else told.calls
        call = Call(mine, probe, self.arguments.of(numbers, self.pipeline, steps))
        self._calls.append((numbers, call))
        return self._kept(call)

    def begin_first(self, numbers: tuple[int, ...]) -> Call:
        """The first call of all, which also tells whether the pipeline can be asked for latents.

        Args:
            numbers: Numbers of the samples.
        """
        asked = Asked(None, 0)
        try:
            return self.begin(numbers, asked)
        except (LongstrideError, torch.OutOfMemoryError):
            raise
        except Exception:
            self.arguments = replace(self.arguments, latent=False)
            try:
                return self.begin(numbers, asked)
            except LongstrideError:  # a reason says more than that the pipeline knows no latents
                raise
            except Exception:
                self.arguments = replace(self.arguments, latent=True)
            raise

    def end(self) -> None:
        """End all calls; others may follow."""
        while self._calls:
            self.drop(self._calls[-1][1])

    def close(self) -> None:
        """End all calls, and leave the pipeline as a call of its own leaves it."""
        self.end()
        self._hooks.put_back()
