"""A scheduler that hands a pipeline's predictions out, and takes in the states that they are to be made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.errors import InputError
from longstride.integrations.channel import COPIED, Channel, Told
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.setups import Setup

__all__ = ["Probe"]

_CLEAN = (
    "this pipeline asks its scheduler for clean predictions and makes its guidance of them, in several steps per "
    "level: calibration sees one step per level, so this pipeline cannot be calibrated"
)
_MIDDLE = (
    "this pipeline leaves out some of its times: only whole runs can be calibrated, so leave out options that make it "
    "begin late or end early, and set strength to 1 if the pipeline has it"
)


class _Times:
    """Times without an end: each is asked for when the loop of the pipeline comes to it.

    Args:
        following: Gives the next time, or None to end the loop.
        own: Times that there seem to be, shape ``(K,)``; the first is that of the first call.
    """

    def __init__(self, following: Callable[[], Tensor | None], own: Tensor) -> None:
        self.following, self.own = following, own

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self.own[0]
        return self if len(self.own[index]) == len(self.own) else self.own[index]

    def __iter__(self) -> Iterator[Tensor]:
        yield self.own[0]
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
        raise InputError(COPIED)

    def __deepcopy__(self, memo: Any) -> Probe:
        raise InputError(COPIED)

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
            return _Times(self._following, own)
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
            raise InputError(COPIED)
        if not self.channel.position and not self.standing:
            self._check_first(timestep)
        asked = self.channel.step(model_output, sample)
        if asked is None or asked.x is None:
            following = torch.full_like(sample, float("nan"))
        else:  # a copy, because the pipeline must not write into the caller's tensor or a tensor of inference mode
            following = asked.x.to(sample).clone()
            self._time = asked.time
        return _State((following,)) if kwargs.get("return_dict") is False else _Output(following)

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


class _State(tuple[Tensor]):
    """The next state, in a tuple as ``step`` returns it."""

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise InputError(_CLEAN)
        return super().__getitem__(index)


class _Output:
    """What pipelines read from ``step``."""

    def __init__(self, sample: Tensor) -> None:
        self.prev_sample = sample

    @property
    def pred_original_sample(self) -> Tensor:
        """The clean prediction, which is refused.

        Raises:
            InputError: always.
        """
        raise InputError(_CLEAN)

    def __getitem__(self, index: int) -> Tensor:
        found: Tensor = _State((self.prev_sample,))[index]
        return found
