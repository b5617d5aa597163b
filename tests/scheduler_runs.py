"""Whole runs of a scheduler, ours or diffusers', with a network that depends on its time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["difference", "network", "noise", "run"]


def network(x: Tensor, t: Any) -> Tensor:
    """Smooth, nonlinear, and different at every time."""
    time = torch.as_tensor(t, dtype=torch.float32)
    return (torch.tanh(1.3 * x + 0.1 * torch.sin(time / 100) + 0.2 * torch.cos(3 * time)) * 0.9 + 0.05 * x).to(x.dtype)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (3, 4, 8, 8)), generator=torch.Generator().manual_seed(seed))


def run(scheduler: Any) -> Tensor:
    """A run as pipelines make it, from the scheduler's own scale of noise."""
    x = noise() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # diffusers would begin equal times with the second
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(seen, t), t, x).prev_sample
    return x


def difference(theirs: Any, ours: Any, **asked: Any) -> float:
    """Largest difference of two schedulers' samples, relative to the largest sample; their times must agree."""
    ours.set_timesteps(**asked)
    with np.errstate(divide="ignore"):  # of diffusers, at a level of 0
        theirs.set_timesteps(**asked)
    torch.testing.assert_close(ours.timesteps.double(), theirs.timesteps.double(), rtol=1e-6, atol=1e-6)
    expected, found = run(theirs), run(ours)
    return float((found - expected).abs().max() / expected.abs().max())
