"""What pipelines read of their scheduler: times, levels and scales, and where a run stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.integrations.cut_times import CutTimes
from longstride.integrations.noise_process import SCALED, Process
from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.integrations.setups import Setup
from longstride.integrations.stepper import Stepper

__all__ = ["Facts"]


class Facts:
    """What is known of a scheduler with settings, a stepper and perhaps a card."""

    config: Any
    process: Process
    _card: Any

    @property
    def _stepper(self) -> Stepper:
        raise NotImplementedError

    @property
    def order(self) -> int:
        """Most network calls per step."""
        return 1 if self._stepper.known is None else self.setup.plan.order

    @property
    def init_noise_sigma(self) -> float:
        """What standard normal noise is multiplied by at the start."""
        if self.process not in SCALED:
            return 1.0  # without building the schedule
        known = self._stepper.known
        if self.process == "euler" and known is not None:
            return known.settings.first_scale(float(known.plan.table.sigmas[0]))
        settings = SchedulerSettings.of(self.config)
        return settings.first_scale(float(settings.schedule.ratio(settings.schedule.t_range[1])))

    @property
    def timesteps(self) -> Tensor:
        """What the network is told at every call, shape ``(K,)``."""
        if self._stepper.known is None:
            return torch.arange(len(self) - 1, -1, -1)
        told = self.setup.timesteps
        plain = not self.setup.calibrated or torch.compiler.is_compiling()
        return told if plain else CutTimes.of(told, self._stepper.end_before)

    @property
    def sigmas(self) -> Tensor:
        """``sigma / alpha`` of every state, sigma itself for flows; float64, shape ``(K + 1,)``, on the CPU.

        With ``invert_sigmas`` it is alpha, as in diffusers.
        """
        if self._stepper.known is None:
            settings = SchedulerSettings.of(self.config)
            low, high = settings.schedule.t_range
            times = np.linspace(high, low, len(self))
            levels = settings.schedule.sigma(times) if self.process == "flow" else settings.schedule.ratio(times)
        else:
            settings, levels = self.setup.settings, self.setup.plan.ratios.copy()
        return torch.from_numpy(1 - levels if settings.noise_process.backwards else levels)

    @property
    def alphas_cumprod(self) -> Tensor:
        """``alpha²`` at every training time, shape ``(T,)``, of a network that was trained at discrete times.

        Raises:
            AttributeError: the network was not, as in diffusers.
        """
        table: Tensor = SchedulerSettings.of(self.config).own_scheduler.alphas_cumprod
        return table

    @property
    def num_inference_steps(self) -> int | None:
        """Steps that were set, or None."""
        return None if self._stepper.known is None else self.setup.levels.steps

    @property
    def step_index(self) -> int | None:
        """Index of the next call, or None before the first."""
        return self._stepper.index

    @property
    def begin_index(self) -> int | None:
        """Call that the run begins with, or None if the pipeline has not said it."""
        return self._stepper.begin_index

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps or 1000)

    @property
    def setup(self) -> Setup:
        """What the last ``set_timesteps`` of this thread decided, or that of another thread if this one made none.

        Raises:
            InputError: ``set_timesteps`` was not called.
        """
        return self._stepper.setup

    @property
    def threshold(self) -> Callable[[Tensor], Tensor] | None:
        """What is done to clean predictions, or None."""
        if self._stepper.known is not None:
            return self._stepper.known.threshold
        return SchedulerSettings.of(self.config).threshold(calibrated=self._card is not None)
