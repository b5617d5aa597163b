"""A scheduler that hands a pipeline's predictions out, and takes in the states that they are to be made for."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.setups import Setup

__all__ = ["Answered", "Asked", "Channel", "Leave", "Probe", "Told"]

_COPIED = (
    "this pipeline copies its scheduler and steps the copy: calibration sees one run of one state alone, so this "
    "pipeline cannot be calibrated"
)
_MIDDLE = (
    "this pipeline leaves out some of its times: only whole runs can be calibrated, so leave out options that make it "
    "begin late or end early, and set strength to 1 if the pipeline has it"
)


class Leave(BaseException):
    """The call of a pipeline is to end; no error, so that no pipeline catches it as such."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the network of a pipeline is told in a run of K calls.

    Attributes:
        times: Network times, shape ``(K,)``.
        ratios: ``sigma / alpha`` of every state, sigma itself for flows, shape ``(K + 1,)``.
    """

    times: Array
    ratios: Array

    @property
    def calls(self) -> int:
        """Network calls K."""
        return len(self.times)

    def same(self, other: Told | None) -> bool:
        """Whether the other run is told the same."""
        return self is other or (
            other is not None and np.array_equal(self.times, other.times) and np.array_equal(self.ratios, other.ratios)
        )


@dataclass(frozen=True, eq=False)
class Asked:
    """A question to a call.

    Attributes:
        x: State as the pipeline has it, shape ``(B, *)``; None for the pipeline's own first state.
        k: Number of the step.
        time: Network time; None if the step has its own.
        answered: Whether the networks are answered at this step, too: the state alone is of interest.
    """

    x: Tensor | None
    k: int
    time: Tensor | None = None
    answered: bool = False


class Answered(Protocol):
    """What acts on the components of a pipeline while its call goes on; see :mod:`.answered`."""

    looping: bool
    answering: bool

    def resume(self) -> None: ...
    def pause(self) -> None: ...
    def take(self) -> tuple[Any, ...]: ...


class Channel:
    """Between the thread of a pipeline's call and the thread that asks.

    Args:
        asked: The first question.
        answers: What acts on the components meanwhile.

    Attributes:
        out: From the pipeline: a prediction and a state, each of shape ``(B, *)``, or the error that ended the call.
        back: To the pipeline: the next question, or None to end the call.
        position: Number of the step that the pipeline comes to next.
        patterns: What was called in every step so far.
    """

    def __init__(self, asked: Asked, answers: Answered) -> None:
        self.out: queue.Queue[Any] = queue.Queue()
        self.back: queue.Queue[Asked | None] = queue.Queue()
        self.asked, self.answers = asked, answers
        self.position = 0
        self.patterns: list[tuple[Any, ...]] = []

    def __copy__(self) -> Channel:
        raise InputError(_COPIED)

    def __deepcopy__(self, memo: Any) -> Channel:
        raise InputError(_COPIED)

    def begin(self) -> None:
        """Let the components be watched; called in the thread of the call."""
        self._go_on()

    def _go_on(self) -> None:
        self.answers.looping = self.position > 0
        self.answers.answering = self.position < self.asked.k or self.asked.answered
        self.answers.resume()

    def step(self, output: Tensor, sample: Tensor) -> Asked | None:
        """Hand a prediction out if it was asked for.

        Args:
            output: What the pipeline has made of the network's outputs, shape ``(B, *)``.
            sample: The state, shape ``(B, *)``.

        Returns:
            The question of the next step, or None if that step is not asked for.

        Raises:
            Leave: the call is to end.
        """
        self.answers.pause()
        self.patterns.append(self.answers.take())
        if self.position == self.asked.k:
            self.out.put((output, sample))
            asked = self.back.get()
            if asked is None:
                raise Leave
            self.asked = asked
        self.position += 1
        self._go_on()
        return self.asked if self.position == self.asked.k else None


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
            raise InputError(_MIDDLE)
        return self

    def __iter__(self) -> Iterator[Tensor]:
        yield self.first
        while (time := self.following()) is not None:
            yield time


class Probe(LongstrideScheduler):
    """A scheduler that hands predictions out and takes states in, from the thread of a pipeline's call.

    Attributes:
        channel: The other end; a copy or a scheduler of the same settings has none.
        told: What the run tells the network; None: what the scheduler's own levels tell.
        standing: Whether the loop has no end, and every step is told the time of its question.
    """

    # Not set in __init__, because diffusers reads the names of the settings from its signature.
    channel: Channel | None = None
    told: Told | None = None
    standing = False
    _base: Setup | None = None
    _device: Any = None
    #: Time that an endless loop is told when it comes round next.
    _time: Tensor | None = None

    def connect(self, channel: Channel, told: Told | None, base: Setup | None, *, standing: bool) -> None:
        """Set the attributes.

        Args:
            channel: As above.
            told: As above.
            base: What ``set_timesteps`` decides, whatever it is asked for; None: what it is asked for.
            standing: As above.
        """
        self.channel, self.told, self._base, self.standing = channel, told, base, standing

    def __copy__(self) -> Probe:
        raise InputError(_COPIED)

    def __deepcopy__(self, memo: Any) -> Probe:
        raise InputError(_COPIED)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """As in :class:`LongstrideScheduler`; a run that is told its levels keeps them."""
        self._device = device
        if self._base is None:
            super().set_timesteps(num_inference_steps, device, timesteps, sigmas, mu)
        else:
            self._stepper.prepare(self._base)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing.

        Raises:
            InputError: the run begins in the middle.
        """
        if begin_index:
            raise InputError(_MIDDLE)

    @property
    def order(self) -> int:
        """Network calls per step, as a pipeline sees them: 1."""
        return 1

    @property
    def step_index(self) -> int | None:
        """Number of the next step."""
        return None if self.channel is None else self.channel.position

    @property
    def num_inference_steps(self) -> int | None:
        """Steps of the run, or None."""
        return super().num_inference_steps if self.told is None else self.told.calls

    @property
    def timesteps(self) -> Any:
        """The times of the run; in an endless loop the first, and then every time that is asked for."""
        if self.told is not None and self._stepper.known is not None:
            return torch.tensor(self.told.times, dtype=torch.float32, device=self._device)
        own = super().timesteps
        if self.standing and self._stepper.known is not None:
            return _Times(self._following, own[0], len(own))
        return own

    @property
    def sigmas(self) -> Tensor:
        """``sigma / alpha`` of every state of the run, sigma itself for flows, shape ``(K + 1,)``."""
        return super().sigmas if self.told is None else torch.from_numpy(self.told.ratios.copy())

    def _following(self) -> Tensor | None:
        # Once only: a loop that comes round without a step must end, as that of an interrupted pipeline.
        time, self._time = self._time, None
        return time

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """As in :class:`LongstrideScheduler`, at the time that is told.

        Args:
            sample: The state, shape ``(B, *)``.
            timestep: Network time.

        Returns:
            The network's input, shape ``(B, *)``.
        """
        process = self.setup.settings.noise_process
        if process.input_scale(1.0) == 1:
            return sample
        told = self.timesteps[0] if timestep is None else timestep
        return sample * process.input_scale(float(process.noise_levels([float(told)])[1][0]))

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hand a prediction out, and wait for the next state.

        Args:
            model_output: The network's prediction, shape ``(B, *)``.
            timestep: Network time; a first time that is not the run's first belongs to a run that begins late.
            sample: The state, shape ``(B, *)``.
            *args: Unused.
            **kwargs: Unused, but for ``return_dict``.

        Returns:
            The next state, shape ``(B, *)``, in what pipelines read from ``step``.

        Raises:
            InputError: the run begins late, or this scheduler is a copy.
        """
        if self.channel is None:
            raise InputError(_COPIED)
        if not self.channel.position and not self.standing:
            self._check_first(timestep)
        asked = self.channel.step(model_output, sample)
        if asked is None or asked.x is None:
            following = torch.full_like(sample, float("nan"))
        else:  # a copy, because the pipeline must not write into the caller's tensor or a tensor of inference mode
            following = asked.x.to(sample).clone()
            self._time = asked.time
        return (following,) if kwargs.get("return_dict") is False else _Output(following)

    def _check_first(self, timestep: Any) -> None:
        times = np.asarray(self.timesteps.double().cpu()) if len(self.timesteps) else np.zeros(0)
        if isinstance(timestep, Tensor) and timestep.numel() != 1:
            return
        try:
            time = float(timestep)
        except (TypeError, ValueError):
            return
        if time in times[1:] and time != times[0]:
            raise InputError(_MIDDLE)


class _Output:
    """What pipelines read from ``step``."""

    def __init__(self, sample: Tensor) -> None:
        self.prev_sample = sample

    def __getitem__(self, index: int) -> Tensor:
        return (self.prev_sample,)[index]
