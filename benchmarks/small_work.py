"""Work of seconds that is real in every part: an exact denoiser, its calibration, cards and a book."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longstride.book import CardBook
from longstride.calibration import Calibration, calibrate
from longstride.calibration.many import calibrate_book
from longstride.card_parts import ModelInfo
from longstride.denoiser import Denoiser, as_denoiser
from longstride.grid import grid
from longstride.schedule import Schedule
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["SCHEDULE", "TwoModes", "calibrated", "network", "noise", "small_book", "table"]

SCHEDULE = Schedule.edm(0.05, 10.0)
#: Data are N(±1, .3²), with equal chances, in every entry.
_MODE, _SPREAD = 1.0, 0.3
#: A calibration that takes a second.
_QUICK: dict[str, Any] = {"iterations": 2, "scouts": 2, "scout_samples": 16, "reference_steps": 12, "seed": 0}


def network(guidance: float | None = None) -> Denoiser:
    """The exact denoiser; guidance draws it to the nearer mode."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        sigma = float(t[0])
        variance = _SPREAD**2 + sigma**2
        mean = _MODE * torch.tanh(_MODE * x / variance)
        clean = (x * _SPREAD**2 + mean * sigma**2) / variance
        return clean if guidance is None else clean + 0.1 * guidance * torch.tanh(x) / (1 + sigma)

    return as_denoiser(model, SCHEDULE, "data")


def noise(count: int, seed: int = 0, size: int = 6) -> Tensor:
    """First states, ``(count, size)``."""
    return 10.0 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def table(nfe: int) -> SolverTable:
    """DDIM with so many network calls."""
    return build("ddim", grid("karras", nfe, schedule=SCHEDULE, final="sigma_min"))


def calibrated(nfe: int = 4, samples: int = 48, journal: Path | None = None, **options: Any) -> Calibration:
    """A calibration of the exact denoiser; options as of :func:`longstride.calibrate`."""
    asked = {**(_QUICK if "method" not in options else {}), **options}
    return calibrate(network(), noise(samples), table(nfe), model=ModelInfo(name="two modes"), journal=journal, **asked)


class TwoModes:
    """The exact denoiser in the form that books are calibrated from."""

    schedule = SCHEDULE

    def noise(self, seeds: range, sigma: float) -> Tensor:
        """First states of some samples."""
        return sigma / 10.0 * torch.cat([noise(1, seed) for seed in seeds])

    def denoiser(self, seeds: range, guidance: float | None = None) -> Denoiser:
        """The same for all samples."""
        del seeds
        return network(guidance)

    def info(self, guidance: float | None = None) -> ModelInfo:
        """What cards say of it."""
        return ModelInfo(name="two modes", fingerprint="ab" * 32, guidance=guidance)


def small_book() -> CardBook:
    """Two numbers of calls at two guidance scales."""
    options = {**_QUICK, "seeds": range(48), "held_out": 24, "refine": 1, "refine_samples": 16, "batch_size": 48}
    return calibrate_book(TwoModes(), (3, 4), (1.0, 3.0), **options)
