"""The benchmark against peers: every method on the same networks, the same noise and the same number of calls.

Who takes part: every classical solver, on the grid that calibration noise says is its best; the published forms of IIA;
longstride's own fits; and what other people have published, one file each in ``benchmarks/peers`` of the repository.
All are given the same calibration noise and its converged solution, and measured on noise that none has seen.

What was found and what was measured is kept by number of calls, so that a run goes on where it stopped, and another
number of calls is added to the same results file.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from longstride.bench.memory import PeakMemory
from longstride.bench.paper import CASES, Case
from longstride.bench.peer_task import Meter, Peer, Task
from longstride.calibration import calibrate
from longstride.calibration.dense import DenseSolution, solve_dense
from longstride.calibration.gauss_newton import robust_mean, robust_scale
from longstride.calibration.reference import Errors, Reference, squared_errors, start_of
from longstride.calibration.starts import CLASSICAL, classical_tables
from longstride.card_parts import TableData
from longstride.errors import InputError, unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.fitting import Say
from longstride.evaluation.measure import Key, Sampler
from longstride.evaluation.results import Results, load_results, merged, save_results
from longstride.evaluation.runner import measure_samplers
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.study import Study
from longstride.files import write_atomically
from longstride.sampler import sample
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["OURS", "PEERS", "PeerCase", "peer_cases", "run_peers"]

#: Files of ``benchmarks/peers``; the last three learn by backprop.
PEERS = ("gits", "dmn", "ays", "pas", "dc_solver", "dpm_solver_v3", "ld3", "s4s", "gs")
#: Published forms of IIA, by name: method and base solver.
IIA = {
    "iia_ddim": ("iia_ddim", "ddim"),
    "iia_ipndm": ("iia_ipndm", "ipndm4"),
    "iia_dpmpp_2m": ("iia_dpm_solver", "dpmpp_2m"),
}
#: Classical solvers at numbers of calls that people use, which fewer calls are compared with.
YARDSTICKS: dict[int, tuple[str, ...]] = {10: ("dpmpp_2m", "unipc3"), 20: ("ddim",), 50: ("ddim",)}
#: What this package fits beside IIA.
OURS = ("global", "gauss_newton")


@dataclass(frozen=True)
class PeerCase:
    """A network of the benchmark.

    Attributes:
        case: Name, model, guidance and evaluation samples.
        nfes: Network calls.
        fitted: Calibration samples that are fitted.
        held_out: Further ones that decide.
        backprop: Whether the peers that need gradients of the network take part.
    """

    case: Case
    nfes: tuple[int, ...]
    fitted: int = 128
    held_out: int = 48
    backprop: bool = True


def peer_cases() -> dict[str, PeerCase]:
    """The networks of the documentation's benchmark, by name."""
    known = {case.slug: case for case in CASES}
    guided = known["garments_guided"]
    strong = replace(guided, slug="garments_guided7", title="Garments, guidance 7.5", guidance=7.5)
    return {
        "garments": PeerCase(known["garments"], (5, 6, 8)),
        "garments_guided": PeerCase(guided, (6, 10)),
        "garments_guided7": PeerCase(strong, (6, 10)),
        "cifar10": PeerCase(known["cifar10"], (5, 6, 8)),
        "galaxy_hsc32": PeerCase(known["galaxy_hsc32"], (3, 4, 5, 6, 8, 10, 12)),
        "galaxy_hsc64": PeerCase(known["galaxy_hsc64"], (5, 6, 8)),
    }


@dataclass
class _Entry:
    """A sampler, and what it took to find it."""

    sampler: Sampler
    about: dict[str, Any]


class _Field:
    """Finds the samplers of one network and number of calls."""

    def __init__(self, model: Model, one: PeerCase, nfe: int, seed: int) -> None:
        self.model, self.one, self.nfe = model, one, nfe
        self.seeds = seed_range("calibration", seed, one.fitted + one.held_out)
        self.ends = base_table(model.schedule, "ddim", nfe)
        self.noise = model.noise(self.seeds, self.ends.sigmas[0])
        self.denoiser = model.denoiser(self.seeds, one.case.guidance)
        self._dense: DenseSolution | None = None

    @property
    def solution(self) -> DenseSolution:
        """Converged solution of the calibration samples; every method is given it."""
        if self._dense is None:
            parts = [slice(b, b + 32) for b in range(0, len(self.noise), 32)]
            found = [solve_dense(self.denoiser.select(p), self.noise[p], self.ends) for p in parts]
            states = tuple(torch.cat([one.states[k] for one in found]) for k in range(len(found[0].states)))
            outputs = tuple(torch.cat([one.outputs[k] for one in found]) for k in range(len(found[0].outputs)))
            self._dense = replace(found[0], states=states, outputs=outputs)
        return self._dense

    def classical(self, names: Iterable[str] = tuple(CLASSICAL)) -> dict[str, _Entry]:
        """Classical solvers, each on its best grid, and the best of these as ``classical``."""
        wanted = tuple(names)
        tables = classical_tables(self.ends, self.model.schedule)
        tables = {key: table for key, table in tables.items() if key.partition("@")[0] in wanted}
        few = slice(0, min(96, len(self.noise)))
        denoiser, goal = self.denoiser.select(few), self.solution.end[few]
        squared = {key: squared_errors(sample(denoiser, self.noise[few], one), goal) for key, one in tables.items()}
        common = min(robust_scale(found) for found in squared.values())
        loss = {key: robust_mean(found, common) for key, found in squared.items()}
        found = {}
        for name in wanted:
            own = [key for key in tables if key.partition("@")[0] == name]
            key = min(own, key=lambda key: loss[key])
            rmse = {other.partition("@")[2]: Errors.of(squared[other]).rmse for other in own}
            found[name] = _Entry(tables[key], {"grid": key.partition("@")[2], "rmse_by_grid": rmse})
        best = min(loss, key=lambda key: loss[key])
        return {"classical": _Entry(tables[best], {"solver": best}), **found}

    def own(self, name: str, classical: Mapping[str, _Entry]) -> Callable[[], _Entry]:
        """A calibration of this package: IIA on its base's best grid, the others from the best classical solver."""
        method, base = IIA.get(name, (name, "classical"))
        table = classical[base].sampler
        assert isinstance(table, SolverTable)

        def find() -> _Entry:
            few = min(32, self.one.fitted) if name in IIA else self.one.fitted
            chosen = slice(self.one.fitted - few, self.one.fitted + (few if name in IIA else self.one.held_out))
            noise = self.noise[chosen]
            target = self.solution.end[chosen]
            result = calibrate(
                self.denoiser.select(chosen),
                noise,
                table,
                method=method,
                held_out=len(noise) - few,
                reference=Reference(target, float("nan"), self.solution.nfe, start_of(noise, table)),
                batch_size=32,
                model=self.model.info(self.one.case.guidance),
            )
            about = {"calls": result.calls, "accepted": result.end.accepted, "reason": result.end.reason}
            if result.search is not None:
                about |= {"base": result.search.base, "start": result.search.start, "scouts": result.search.scouts}
            return _Entry(result.table, about)

        return find

    def peer(self, peer: Peer, budget: int | None) -> Callable[[], _Entry]:
        """Another method; those that learn by backprop may spend as many network calls as ours did."""

        def find() -> _Entry:
            meter = Meter(budget)
            task = Task(
                self.denoiser, self.model.schedule, self.nfe, self.noise, self.solution, self.ends, meter, seed=0
            )
            found = peer(task)
            spent = {"calls": meter.calls, "forward": meter.forward, "backward": meter.backward, "budget": budget}
            return _Entry(found.sampler, {**spent, **found.about})

        return find


def run_peers(
    model: Model,
    one: PeerCase,
    out: Path,
    peers: Path | None,
    *,
    nfes: tuple[int, ...] = (),
    names: tuple[str, ...] = (),
    seed: int = 0,
    say: Say = lambda what, done, total: None,
) -> Results:
    """Run the benchmark on one network, and add to ``out / peers_CASE.json``.

    Args:
        model: The network.
        one: What is asked of it.
        out: Folder of the results; ``work`` in it keeps finished parts.
        peers: Folder with the peers' files, ``benchmarks/peers`` of a checkout; None leaves them out.
        nfes: Network calls; default: the case's.
        names: Samplers to find besides the classical ones, of :data:`PEERS`, :data:`IIA` and :data:`OURS`; default:
            all.
        seed: Shifts every seed.
        say: Called with (what is being done, done, total).
    """
    case = one.case
    study = Study(
        contestants=(),
        samples=case.samples,
        batch_size=case.batch_size * 2,
        calibration_samples=one.fitted + one.held_out,
        guidance=case.guidance,
        nfes=nfes or one.nfes,
        seed=seed,
    )
    methods = load_peers(peers, names, one.backprop)
    ours = tuple(name for name in (*IIA, *OURS) if not names or name in names)
    folder = out / "work" / f"peers_{case.slug}"
    file = out / f"peers_{case.slug}.json"

    def measure(nfe: int, entries: Mapping[str, _Entry]) -> Results:
        samplers: dict[Key, Sampler] = {(name, nfe): entry.sampler for name, entry in entries.items()}
        bases = {name: None if name in ("classical", *CLASSICAL) else "classical" for name in entries}
        ends = base_table(model.schedule, "ddim", nfe)
        measured = measure_samplers(model, study, ends, samplers, bases, folder / "measured", say=say)
        search = {f"{name}-{nfe}": entry.about for name, entry in entries.items()}
        labels = {name: module.LABEL for name, module in methods.items()}
        new = Results({**measured.about, "search": search, "labels": labels}, measured.lines)
        results = merged(load_results(file), new) if file.exists() else new
        save_results(results, file)
        return results

    for nfe in study.nfes:
        field, what = _Field(model, one, nfe, seed), f"{case.slug} at {nfe} calls"
        known = load_results(file).about["search"] if file.exists() else {}
        budget = known.get(f"gauss_newton-{nfe}", {}).get("calls")
        results = measure(nfe, _find(field, ours, methods, folder / "found", what, budget, say))
    for nfe, wanted in YARDSTICKS.items():
        if nfe not in results.nfes:
            results = measure(nfe, _Field(model, one, nfe, seed).classical(wanted))
    return results


def _find(
    field: _Field,
    ours: tuple[str, ...],
    methods: Mapping[str, Any],
    folder: Path,
    what: str,
    budget: int | None,
    say: Say,
) -> dict[str, _Entry]:
    """All samplers of a network and number of calls; tables that were found before are read.

    Args:
        field: Finds them.
        ours: Those of this package.
        methods: Modules of the peers.
        folder: Of what was found before.
        what: What is said to be done.
        budget: Network calls of peers that learn by backprop where our own fit is not among ``ours``.
        say: Called with (what, done, total).

    Raises:
        InputError: such a peer, and no calls that our own fit spent.
    """
    found = field.classical()
    for done, name in enumerate((*ours, *methods)):
        say(what, done, len(ours) + len(methods))
        if name in ours:
            find = field.own(name, found)
        else:
            module = methods[name]
            spent = found["gauss_newton"].about["calls"] if "gauss_newton" in found else budget
            if module.BACKPROP and spent is None:
                raise InputError(f"{name} may spend as many network calls as gauss_newton did: run that first")
            find = field.peer(module.find, spent if module.BACKPROP else None)
        found[name] = _kept(folder / f"{name}-{field.nfe}.json", find, field)
    say(what, 1, 1)
    return found


def _kept(file: Path, find: Callable[[], _Entry], field: _Field) -> _Entry:
    """What was found before, or is found now; samplers that are no tables are found every time."""
    if file.exists():
        raw = json.loads(file.read_text(encoding="utf-8"))
        return _Entry(TableData(**raw["table"]).table(file.stem, {}), raw["about"])
    _ = field.solution  # given to all: neither its time nor its memory is theirs
    with PeakMemory() as memory:
        begin = time.perf_counter()
        entry = find()
        seconds = time.perf_counter() - begin
    entry.about |= {"seconds": seconds, "memory_mib": memory.peak_mib}
    entry.about = json.loads(json.dumps(entry.about, default=float))
    if isinstance(entry.sampler, SolverTable):
        content = {"table": TableData.of(entry.sampler).model_dump(), "about": entry.about}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(content).encode())
    return entry


def load_peers(folder: Path | None, names: tuple[str, ...], backprop: bool) -> dict[str, Any]:
    """Modules of the peers by name; names of this package's own samplers are passed over.

    Raises:
        InputError: no such folder or sampler.
    """
    for name in names:
        if name not in (*PEERS, *IIA, *OURS):
            raise unknown("sampler", name, (*PEERS, *IIA, *OURS))
    if folder is None:
        return {}
    if not (folder / "__init__.py").is_file():
        raise InputError(f"{folder} holds no peers: run in a checkout of the repository, or give its benchmarks/peers")
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    chosen = [name for name in names or PEERS if name in PEERS]
    modules = {name: importlib.import_module(f"{folder.name}.{name}") for name in chosen}
    return {name: module for name, module in modules.items() if backprop or not module.BACKPROP}
