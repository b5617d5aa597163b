"""What tests of books share: a model whose guidance sharpens it, and settings that take seconds."""

from __future__ import annotations

import torch
from problems import Mixture

import longstride as ls

SCHEDULE = ls.Schedule.edm(0.05, 20.0)


class Toy:
    """A mixture whose guidance sharpens it: not a network, but the denoiser depends on the scale."""

    schedule = SCHEDULE

    def noise(self, seeds: range, sigma: float) -> torch.Tensor:
        draws = [torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return sigma * torch.stack(draws)

    def denoiser(self, seeds: range, guidance: float | None = None) -> ls.Denoiser:
        problem, scale = Mixture(), 0.0 if guidance is None else guidance

        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            sigma = float(t.flatten()[0])
            return problem(x, sigma) + 0.1 * scale * torch.tanh(x) / (1 + sigma)

        return ls.as_denoiser(network, SCHEDULE, "data")

    def info(self, guidance: float | None = None) -> ls.ModelInfo:
        return ls.ModelInfo(name="toy", fingerprint="ab" * 32, guidance=guidance)


FAST = {"seeds": range(96), "held_out": 48, "iterations": 3, "scouts": 2, "scout_samples": 48, "reference_steps": 24}
FAST |= {"refine_samples": 48, "refine": 1, "batch_size": 48, "seed": 0}
