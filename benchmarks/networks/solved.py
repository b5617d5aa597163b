"""A network's samples with their converged solution, and what classical solvers make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks.members import Member
from longstride.arrays import Array
from longstride.calibration.reference.solve import squared_errors
from longstride.cores.core import Core
from longstride.denoiser import Denoiser
from longstride.families import Family
from longstride.grid import LastLevel, grid
from longstride.journal import Journal
from longstride.network import in_batches
from longstride.sampler import sample
from longstride.solvers import VARIANTS, build
from longstride.table import SolverTable

__all__ = ["NEAR", "Solved"]

#: ``sigma / alpha`` over the standard deviation of the data, where a process of Stable Diffusion's kind begins.
NEAR = 14.6
#: Classical solvers that are tried, each on every grid.
_SOLVERS = ("ddim", "ipndm2", "ipndm3", "deis3", "dpmpp_2m", "dpmpp_3m", "unipc2", "unipc3")
#: Solvers that people use, on the levels that diffusers gives them.
_USUAL = ("ddim", "dpmpp_2m", "unipc3")
_BATCH = 32


class Solved:
    """Samples of one network from some seeds.

    Args:
        member: The network.
        seeds: Seeds of the noise, and of classes.
        near: Whether samples begin near, at :data:`NEAR`, in place of the network's own start.
        folder: Where solutions and errors are kept; None: nowhere.
        data_std: Standard deviation of the data, if it was measured before.
    """

    def __init__(
        self, member: Member, seeds: range, near: bool, folder: Path | None = None, data_std: float | None = None
    ) -> None:
        self.member, self.seeds, self.near, self._std = member, seeds, near, data_std
        self.model = member.load()
        about = {"member": member.name, "model": self.model.fingerprint, "seeds": [seeds.start, seeds.stop]}
        name = f"{member.name}-{'near' if near else 'own'}-{seeds.start}-{seeds.stop}"
        place = None if folder is None else folder / name
        self.journal = Journal(place, {**about, "near": near})

    @cached_property
    def denoiser(self) -> Denoiser:
        """The network, bound to the samples."""
        return self.model.denoiser(self.seeds, self.member.guidance)

    @property
    def family(self) -> Family:
        """Frame of the sampler's states."""
        schedule = self.model.schedule
        return "ve" if schedule.scaled else schedule.family

    @cached_property
    def data_std(self) -> float:
        """Standard deviation of the data: known, or of 64 samples without guidance."""
        if (known := self.member.data_std or self._std) is not None:
            return known
        seeds = range(5000, 5064)
        found = Journal(
            None if self.journal.folder is None else self.journal.folder / "std", {"name": self.member.name}
        )

        def measure() -> dict[str, Array]:
            table = self._classical("unipc3", "log_snr", 24, self.model.schedule.sigma_range[1])
            noise = self.model.noise(seeds, float(table.sigmas[0]))
            ends = sample(in_batches(self.model.denoiser(seeds), _BATCH), noise, table)
            return {"std": np.array(float(ends.std()))}

        return float(found("std", measure)["std"])

    @property
    def start(self) -> float:
        """First level in the frame of the states."""
        if self.near:
            return NEAR * self.data_std if self.family == "ve" else self._near_own()
        return self.member.start or self.model.schedule.sigma_range[1]

    def _near_own(self) -> float:
        ratio = NEAR * self.data_std
        return ratio / (1 + ratio) if self.family == "flow" else ratio / math.hypot(1, ratio)

    @property
    def stops(self) -> bool:
        """Whether runs end at the least level that the network knows, and not at 0."""
        return self.member.kind == "galaxies"

    @cached_property
    def noise(self) -> Tensor:
        """First states."""
        return self.model.noise(self.seeds, self.start)

    def _classical(self, name: str, spacing: str, nfe: int, start: float | None = None) -> SolverTable:
        final: LastLevel = "sigma_min" if self.stops else "zero"
        schedule, first = self.model.schedule, self.start if start is None else start
        whole = spacing in ("uniform", "quadratic")
        if whole:
            levels = grid(spacing, nfe, schedule=schedule, final=final)
            if not math.isclose(levels[0], first, rel_tol=1e-6):  # the same times, from a lower start
                high, low = float(schedule.time(first)), schedule.t_range[0]
                part = np.linspace(1, 0, nfe + 1)[: nfe + 1 if self.stops else nfe]
                part = part if spacing == "uniform" else part**2
                levels = schedule.frame_sigma(low + (high - low) * part)
                levels = levels if self.stops else np.append(levels, 0.0)
        else:
            levels = grid(spacing, nfe, schedule=schedule, sigma_max=first, final=final)
        return build(VARIANTS[name].solver, levels, schedule=schedule, **VARIANTS[name].options)

    @cached_property
    def target(self) -> Tensor:
        """Ends of the converged solution."""

        def solve() -> Tensor:
            steps = 96 if self.member.cost > 5 else 160 if self.member.cost > 1 else 400
            table = self._classical("unipc3" if self.member.guidance is None else "unipc2", "log_snr", steps)
            return sample(in_batches(self.denoiser, _BATCH), self.noise, table)

        return self.journal.tensor("end", solve, like=self.noise)

    def squared(self, table: SolverTable, count: int | None = None) -> Array:
        """Squared errors of a table on the first samples, ``(count,)``; default: on all."""
        part = slice(0, count)
        with torch.inference_mode():
            ends = sample(in_batches(self.denoiser.select(part), _BATCH), self.noise[part], table)
        return squared_errors(ends, self.target[part])

    def core(self, core: Core, part: float = 1.0) -> SolverTable:
        """A core as a sampler of this network, at a part of the data's standard deviation."""
        schedule = self.model.schedule
        start = float(schedule.frame_ratio(self.start))
        end = float(schedule.frame_ratio(schedule.sigma_range[0])) if self.stops else 0.0
        return core.table(data_std=part * self.data_std, start=start, end=end, family=self.family)

    def classical(self, nfe: int) -> Mapping[str, Array]:
        """Squared errors of classical solvers by ``solver@grid``."""

        def measure() -> dict[str, Array]:
            found = {}
            for spacing in ("karras", "log_snr", "uniform"):
                for name in _SOLVERS:
                    try:
                        found[f"{name}@{spacing}"] = self.squared(self._classical(name, spacing, nfe))
                    except Exception as error:
                        print(f"{self.member.name}: {name}@{spacing}: {str(error)[:90]}", flush=True)
            return found

        return self.journal(f"classical/{nfe}", measure)

    @property
    def usual_names(self) -> tuple[str, ...]:
        """What people run, on the levels that diffusers gives: Karras' for EDM, uniform times for VP and flows."""
        spacing = "karras" if self.model.schedule.family == "ve" else "uniform"
        return tuple(f"{solver}@{spacing}" for solver in _USUAL)

    def classical_table(self, key: str, nfe: int) -> SolverTable:
        """The table of ``solver@grid``."""
        solver, _, spacing = key.partition("@")
        return self._classical(solver, spacing, nfe)

    @property
    def start_in_units(self) -> float:
        """``sigma / alpha`` of the first state over the standard deviation of the data."""
        return float(self.model.schedule.frame_ratio(self.start)) / self.data_std
