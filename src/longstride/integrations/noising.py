"""How pictures get their noise: the half of a scheduler that image-to-image and training use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.integrations.stepper import Stepper

__all__ = ["Noising"]


class Noising:
    """The noise of a scheduler with settings and a stepper."""

    config: Any

    @property
    def _stepper(self) -> Stepper:
        raise NotImplementedError

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x + sigma noise`` at the levels of some times.

        Args:
            original_samples: Pictures or latents, shape ``(B, *)``.
            noise: Standard normal noise, shape ``(B, *)``.
            timesteps: Network times, shape ``(B,)`` or ``()``. A time that was not set has the schedule's level.

        Returns:
            Noisy pictures or latents, shape ``(B, *)``.
        """
        told = torch.as_tensor(timesteps).flatten().detach().cpu()
        # Only NumPy widens them, because not every device has float64.
        times = (told.float() if told.dtype == torch.bfloat16 else told).numpy().astype(np.float64)
        stepper = self._stepper
        if stepper.known is None:
            levels = SchedulerSettings.of(self.config).noise_levels(times)
        else:
            levels = stepper.known.noise_levels(times, stepper.begin_index if stepper.index is None else stepper.index)
        shape, like = (-1, *(1,) * (original_samples.ndim - 1)), original_samples
        alphas, sigmas = (torch.from_numpy(one).to(like.dtype).to(like.device).reshape(shape) for one in levels)
        return alphas * original_samples + sigmas * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise` under the name, and with the order of arguments, that flow pipelines use."""
        return self.add_noise(sample, noise, timestep)
