"""A pipeline's call that is held inside its loop.

The call hands out the network's predictions, and takes in the states that it is to predict for.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from copy import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from longstride.errors import InputError
from longstride.integrations.diffusers import LongstrideScheduler

__all__ = ["Call", "Probe"]

#: Seconds that a call may take to leave its loop.
_PATIENCE = 60.0


class _Over(Exception):
    """The call of a pipeline has ended by itself."""


class _Times:
    """Times without an end: each is asked for when the loop of the pipeline comes to it.

    Args:
        following: Gives the next time, or None to end the loop.
        first: Time of the first call.
        length: How many times there seem to be.
    """

    def __init__(self, following: Callable[[], Tensor | None], first: Tensor, length: int) -> None:
        self.following, self.first, self.length = following, first, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self.first
        if (index.start or 0) != 0 or (index.stop is not None and index.stop < self.length):
            raise InputError(
                "this pipeline leaves out some of its times: only whole runs can be calibrated, so leave out options "
                "that make it begin late or end early"
            )
        return self

    def __iter__(self) -> Iterator[Tensor]:
        yield self.first
        while (time := self.following()) is not None:
            yield time


class Probe(LongstrideScheduler):
    """A scheduler that hands predictions out and takes states in, from the thread of a pipeline's call.

    Attributes:
        closed: Whether the call is to end.
    """

    # The queues are not made in __init__, because diffusers reads the names of the settings from its signature.
    @cached_property
    def out(self) -> queue.Queue[Any]:
        """From the pipeline: a prediction and a state, each of shape ``(B, *)``, or the error that ended the call."""
        return queue.Queue()

    @cached_property
    def back(self) -> queue.Queue[tuple[Tensor, Tensor] | None]:
        """To the pipeline: a state of shape ``(B, *)`` and a time, or None to end the call."""
        return queue.Queue()

    #: Time that the loop is told when it comes round next.
    _time: Tensor | None = None
    closed = False

    @property
    def timesteps(self) -> Any:
        """The first time that was set, and then every time that is asked for."""
        told = super().timesteps
        return _Times(self._following, told[0], len(told))

    def _following(self) -> Tensor | None:
        # Once only: a loop that comes round without a step must end, as that of an interrupted pipeline.
        time, self._time = self._time, None
        return time

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state itself.

        Raises:
            InputError: the network has EDM's preconditioning.
        """
        if self.process == "edm":
            raise InputError("pipelines with EDM's preconditioning cannot be calibrated yet: use longstride.calibrate")
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hand a prediction out, and wait for the next state and its time.

        Args:
            model_output: The network's prediction, shape ``(B, *)``.
            timestep: Unused.
            sample: The state, shape ``(B, *)``.
            *args: Unused.
            **kwargs: Unused, but for ``return_dict``.

        Returns:
            The next state, shape ``(B, *)``, in what pipelines read from ``step``.
        """
        asked = None
        if not self.closed:
            self.out.put((model_output, sample))
            asked = self.back.get()
        # A copy, because the pipeline must not write into the caller's tensor or a tensor of inference mode.
        following = sample if asked is None else asked[0].to(sample).clone()
        self._time = None if asked is None else asked[1]
        return (following,) if kwargs.get("return_dict") is False else _Output(following)


class _Output:
    """What pipelines read from ``step``."""

    def __init__(self, sample: Tensor) -> None:
        self.prev_sample = sample

    def __getitem__(self, index: int) -> Tensor:
        return (self.prev_sample,)[index]


class Call:
    """One call of a pipeline, in a thread of its own, that is held inside its loop.

    Calling it with states ``(size, *)`` and a time returns the pipeline's predictions, shape ``(size, *)``.

    Args:
        pipeline: The pipeline; a shallow copy of it is called.
        probe: Its scheduler for this call.
        options: Arguments of the call.
        size: Number of samples.

    Attributes:
        probe: As above.
        thread: Thread of the call.
        copies: How many times the pipeline carries every state.
        state: First states of the samples, shape ``(size, *)``.
        output: What the pipeline handed to its scheduler for them, shape ``(copies * size, *)``.

    Raises:
        InputError: the pipeline did not enter its loop. Errors of the pipeline itself are raised as they are.
    """

    def __init__(self, pipeline: Any, probe: Probe, options: Mapping[str, Any], size: int) -> None:
        self.probe = probe
        mine = copy(pipeline)
        mine.scheduler = probe
        mine.set_progress_bar_config(disable=True)

        casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]

        def run() -> None:
            try:
                with ExitStack() as stack:  # a thread begins without the caller's autocast
                    for kind, dtype in casts:
                        stack.enter_context(torch.autocast(kind, dtype))
                    mine(**options)
                probe.out.put(_Over())
            except BaseException as error:
                probe.out.put(error)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        try:
            output, state = self._wait()
        except BaseException:
            self.end()
            raise
        #: DiT's pipeline carries every state twice, once for each side of guidance.
        self.copies = max(1, len(state) // size)
        self.state = state[:size]
        self.output = output

    def _wait(self) -> tuple[Tensor, Tensor]:
        """The next prediction and its state, each of shape ``(B, *)``.

        Raises:
            InputError: the pipeline ended its call. Errors of the pipeline itself are raised as they are.
        """
        found = self.probe.out.get()
        if isinstance(found, _Over):
            raise InputError(
                "the pipeline left its loop by itself: a pipeline cannot be calibrated if it is interrupted, or if it "
                "does not call its scheduler in a loop over its times"
            )
        if isinstance(found, BaseException):
            raise found
        output, state = found
        return output, state

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        self.probe.back.put((torch.cat([x] * self.copies), time))
        output, seen = self._wait()
        if not torch.equal(seen[: len(x)].to(x), x):
            raise InputError(
                "something changes the states between the steps of this pipeline, a callback or a mask: take it "
                "away for the calibration"
            )
        return output[: len(x)]

    def end(self) -> None:
        """Let the pipeline leave its loop, and wait for its thread."""
        self.probe.closed = True
        self.probe.back.put(None)
        self.thread.join(_PATIENCE)
