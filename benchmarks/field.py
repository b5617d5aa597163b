"""Who takes part in the benchmark against peers: finds every sampler of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.paper import Case
from benchmarks.peer_task import Found, Meter, Peer, Task
from longstride.arrays import Array
from longstride.calibration import calibrate
from longstride.calibration.endpoint.settings import FITTED, HELD_OUT, fitted_samples
from longstride.calibration.loss import Loss
from longstride.calibration.reference.solve import Reference, squared_errors, start_of
from longstride.calibration.reference.trajectory import FINE, DenseSolution, solve_dense
from longstride.calibration.starts.classical import CLASSICAL, classical_tables
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.grid import spacing_of
from longstride.journal import Journal, table_digest
from longstride.reports import Errors
from longstride.sampler import sample
from longstride.schedule import Flow
from longstride.solvers import VARIANTS, Variant
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["FULL", "IIA", "OURS", "STAGED", "Field", "PeerCase"]

#: Published forms of IIA, by name: method and base solver.
IIA = {
    "iia_ddim": ("iia_ddim", "ddim"),
    "iia_ipndm": ("iia_ipndm", "ipndm4"),
    "iia_dpmpp_2m": ("iia_dpm_solver", "dpmpp_2m"),
}
#: Calibration samples that choose the grid of a classical solver.
_FEW = 48
#: Samples that IIA is fitted to, and as many that decide.
_FEW_IIA = 32
#: What this package fits beside IIA.
OURS = ("global", "gauss_newton")
#: Beside full schedules of others: our own fit with more steps.
FULL: dict[str, dict[str, Any]] = {"gauss_newton_full": {"iterations": 6}}
#: The solver of several calls per step that diffusers offers for flows.
STAGED: dict[str, Variant] = {"heun": VARIANTS["heun"]}


@dataclass(frozen=True)
class PeerCase:
    """A network of the benchmark.

    Attributes:
        case: Name, model, guidance and evaluation samples.
        nfes: Network calls.
        samples: Calibration samples; peers may use all.
        fitted: The first samples, which our own fit sees; default: as many as :func:`~.settings.fitted_samples` says.
        held_out: The next samples, which decide on our fit.
        backprop: Whether the peers that need gradients of the network take part.
    """

    case: Case
    nfes: tuple[int, ...]
    samples: int = 176
    fitted: int | None = None
    held_out: int = HELD_OUT
    backprop: bool = True


class Field:
    """Finds the samplers of one network, from one set of calibration samples for all numbers of calls.

    Args:
        model: The network.
        one: Network calls and samples of the network.
        seed: Shifts every seed.
        folder: Where the end of the converged solution and errors of classical solvers are kept; None: nowhere.
    """

    def __init__(self, model: Model, one: PeerCase, seed: int, folder: Path | None = None) -> None:
        self.model, self.one = model, one
        self.seeds = seed_range("calibration", seed, one.samples)
        self.noise = model.noise(self.seeds, self._ends(one.nfes[0]).sigmas[0])
        self.denoiser = model.denoiser(self.seeds, one.case.guidance)
        about = {"model": model.fingerprint, "guidance": one.case.guidance, "samples": len(self.noise), "seed": seed}
        self._journal = Journal(folder, about)

    def _ends(self, nfe: int) -> SolverTable:
        """A table of ``nfe`` calls between the first and the last level, which all samplers share."""
        return base_table(self.model.schedule, "ddim", nfe)

    @property
    def end(self) -> Tensor:
        """Where the converged solution ends, shape ``(B, *)``."""
        return self._journal.tensor("end", lambda: self.solution.end, like=self.noise)

    @cached_property
    def solution(self) -> DenseSolution:
        """Converged solution of the calibration samples; every method is given it."""
        ends = self._ends(self.one.nfes[0])
        parts = [slice(b, b + 32) for b in range(0, len(self.noise), 32)]
        found = [solve_dense(self.denoiser.select(p), self.noise[p], ends, steps=FINE) for p in parts]
        states = tuple(torch.cat([one.states[k] for one in found]) for k in range(len(found[0].states)))
        outputs = tuple(torch.cat([one.outputs[k] for one in found]) for k in range(len(found[0].outputs)))
        return replace(found[0], states=states, outputs=outputs)

    def classical(self, nfe: int, names: Iterable[str] = tuple({**CLASSICAL, **STAGED})) -> dict[str, Found]:
        """Classical solvers, each on its best grid, and the best of one call per step as ``classical``."""
        known = {**CLASSICAL, **(STAGED if isinstance(self.model.schedule, Flow) else {})}
        tables = classical_tables(self._ends(nfe), self.model.schedule, solvers=known)
        wanted = [name for name in names if any(key.partition("@")[0] == name for key in tables)]
        tables = {key: table for key, table in tables.items() if key.partition("@")[0] in wanted}
        few = slice(0, min(_FEW, len(self.noise)))
        denoiser, goal = self.denoiser.select(few), self.end[few]

        def measured(table: SolverTable) -> Array:
            def find() -> dict[str, Array]:
                return {"squared": squared_errors(sample(denoiser, self.noise[few], table), goal)}

            return self._journal(f"classical/{table_digest(table)[:20]}", find)["squared"]

        squared = {key: measured(one) for key, one in tables.items()}
        common = Loss.common(squared.values())
        loss = {key: common.mean(found) for key, found in squared.items()}
        found = {}
        for name in wanted:
            own = [key for key in tables if key.partition("@")[0] == name]
            key = min(own, key=lambda key: loss[key])
            rmse = {other.partition("@")[2]: Errors.of(squared[other]).rmse for other in own}
            found[name] = Found(tables[key], {"grid": key.partition("@")[2], "rmse_by_grid": rmse})
        best = min((key for key in loss if key.partition("@")[0] in CLASSICAL), key=lambda key: loss[key])
        return {"classical": Found(tables[best], {"solver": best}), **found}

    def usual(self, nfe: int, names: Iterable[str] = tuple(CLASSICAL)) -> dict[str, Found]:
        """Classical solvers as ``SOLVER@GRID`` on the grid that users get by default; it needs no calibration noise."""
        spacing = spacing_of("auto", self.model.schedule)
        tables = classical_tables(self._ends(nfe), self.model.schedule)
        keys = [key for name in names if (key := f"{name}@{spacing}") in tables]
        return {key: Found(tables[key], {"grid": spacing}) for key in keys}

    def own(self, name: str, classical: Mapping[str, Found]) -> Callable[[], Found]:
        """A calibration of this package: IIA on its base's best grid, the others from the best classical solver."""
        method, base = IIA.get(name, ("gauss_newton" if name in FULL else name, "classical"))
        table = classical[base].sampler
        assert isinstance(table, SolverTable)
        settings = FULL.get(name, {})
        if method == "gauss_newton":  # universal tables of the package saw these networks
            settings = {"universal": False, **settings}

        def find() -> Found:
            if name in IIA:  # before the last samples of our own fit at many calls, and after them
                middle = self.one.fitted or FITTED
                few = min(_FEW_IIA, middle)
                chosen = slice(middle - few, middle + few)
            else:
                few = self.one.fitted or fitted_samples(table.nfe)
                chosen = slice(0, few + self.one.held_out)
            noise = self.noise[chosen]
            target = self.end[chosen]
            result = calibrate(
                self.denoiser.select(chosen),
                noise,
                table,
                method=method,
                held_out=len(noise) - few,
                reference=Reference(target, float("nan"), FINE, start_of(noise, table)),
                batch_size=32,
                model=self.model.info(self.one.case.guidance),
                **settings,
            )
            about = {"calls": result.calls, "accepted": result.end.accepted, "reason": result.end.reason}
            if result.search is not None:
                about |= {"base": result.search.base, "start": result.search.start, "scouts": result.search.scouts}
            return Found(result.table, about)

        return find

    def peer(self, peer: Peer, nfe: int, budget: int | None) -> Callable[[], Found]:
        """Another method at a number of calls, with the network calls that it may spend; None: as many as it likes."""

        def find() -> Found:
            meter = Meter(budget)
            ends, schedule = self._ends(nfe), self.model.schedule
            task = Task(self.denoiser, schedule, nfe, self.noise, self.solution, ends, meter, seed=0)
            found = peer(task)
            spent = {"calls": meter.calls, "forward": meter.forward, "backward": meter.backward, "budget": budget}
            return Found(found.sampler, {**spent, **found.about})

        return find
