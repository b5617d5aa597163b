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
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longstride.bench.field import FULL, IIA, OURS, STAGED, Entry, Field, PeerCase
from longstride.bench.memory import PeakMemory, device_name
from longstride.bench.paper import CASES, Case
from longstride.calibration.starts.classical import CLASSICAL
from longstride.card_parts import TableData
from longstride.errors import InputError, unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.fitting import Say
from longstride.evaluation.measure import Key, Sampler
from longstride.evaluation.results import Results, load_results, merged, save_results
from longstride.evaluation.runner import measure_samplers
from longstride.evaluation.study import Study
from longstride.files import write_atomically
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["OURS", "PEERS", "PeerCase", "peer_cases", "run_peers"]

#: Files of ``benchmarks/peers``; the last three learn by backprop.
PEERS = ("gits", "dmn", "ays", "pas", "dc_solver", "dpm_solver_v3", "ld3", "s4s", "gs")
#: Classical solvers at numbers of calls that people use, which fewer calls are compared with.
YARDSTICKS: dict[int, tuple[str, ...]] = {10: ("dpmpp_2m", "unipc3"), 20: ("ddim",), 50: ("ddim",)}


def peer_cases() -> dict[str, PeerCase]:
    """The networks of the documentation's benchmark, by name."""
    known = {case.slug: case for case in CASES}
    guided = known["garments_guided"]
    strong = replace(guided, slug="garments_guided7", title="Garments, guidance 7.5", guidance=7.5)
    flow = Case("garments_flow", "Garments, rectified flow (bundled)", "garments_flow")
    return {
        "garments": PeerCase(known["garments"], (5, 6, 8)),
        "garments_guided": PeerCase(guided, (6, 10)),
        "garments_guided7": PeerCase(strong, (6, 10)),
        "cifar10": PeerCase(known["cifar10"], (5, 6, 8)),
        "galaxy_hsc32": PeerCase(known["galaxy_hsc32"], (3, 4, 5, 6, 8, 10, 12)),
        "garments_flow": PeerCase(flow, (5, 6, 8), backprop=False),
        "galaxy_hsc64": PeerCase(known["galaxy_hsc64"], (5, 6, 8)),
    }


def run_peers(
    model: Model,
    one: PeerCase,
    out: Path,
    peers: Path | None,
    *,
    nfes: tuple[int, ...] = (),
    names: tuple[str, ...] = (),
    times: float = 1.0,
    full: bool = False,
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
        times: Other than 1: those that learn by backprop alone, with so many times the calls that our own fit spent;
            they stand beside the others as ``NAME_xTIMES``.
        full: Those alone, with all iterations of their schedules whatever these cost, as ``NAME_full``, and our own fit
            with more steps.
        seed: Shifts every seed.
        say: Called with (what is being done, done, total).

    Raises:
        InputError: no such sampler, no calls that our own fit spent, ``full`` or ``times`` where no peer learns by
            backprop, or both.
    """
    if full and times != 1:
        raise InputError(f"full schedules are not to be cut to {times:g} times our calls: choose one of both")
    case = one.case
    study = Study(
        contestants=(),
        samples=case.samples,
        batch_size=case.batch_size * 2,
        calibration_samples=one.samples,
        guidance=case.guidance,
        nfes=nfes or one.nfes,
        seed=seed,
    )
    methods = load_peers(peers, names, one.backprop)
    ours = tuple(name for name in (*IIA, *OURS) if not names or name in names)
    labels = {name: module.LABEL for name, module in methods.items()}
    if full or times != 1:
        suffix, what = ("full", "full schedule") if full else (f"x{times:g}", f"{times:g} × the calls")
        ours, methods = (), {f"{name}_{suffix}": one for name, one in methods.items() if one.BACKPROP}
        labels = {name: f"{module.LABEL}, {what}" for name, module in methods.items()}
        if full and (not names or "gauss_newton" in names):
            ours = tuple(FULL)
        if not (methods or ours):
            raise InputError(f"no peer that learns by backprop is to be run on {case.slug}: leave out full and times")
    folder = out / "work" / f"peers_{case.slug}"
    file = out / f"peers_{case.slug}.json"

    def measure(nfe: int, entries: Mapping[str, Entry]) -> Results:
        samplers: dict[Key, Sampler] = {(name, nfe): entry.sampler for name, entry in entries.items()}
        bases = {name: None if name in ("classical", *CLASSICAL, *STAGED) else "classical" for name in entries}
        ends = base_table(model.schedule, "ddim", nfe)
        measured = measure_samplers(model, study, ends, samplers, bases, folder / "measured", say=say, keep=True)
        search = {f"{name}-{nfe}": entry.about for name, entry in entries.items()}
        new = Results({**measured.about, "search": search, "labels": labels}, measured.lines)
        results = merged(load_results(file), new) if file.exists() else new
        save_results(results, file)
        return results

    field = Field(model, one, seed, folder / "solution")
    for nfe in study.nfes:
        what = f"{case.slug} at {nfe} calls"
        known = load_results(file).about["search"] if file.exists() else {}
        spent = known.get(f"gauss_newton-{nfe}", {}).get("calls")
        budget = None if spent is None or full else int(times * spent)
        results = measure(nfe, _find(field, nfe, ours, methods, folder / "found", what, budget, full, say))
    for nfe, wanted in YARDSTICKS.items():
        if nfe not in results.nfes:
            results = measure(nfe, field.classical(nfe, wanted))
    return results


def _find(
    field: Field,
    nfe: int,
    ours: tuple[str, ...],
    methods: Mapping[str, Any],
    folder: Path,
    what: str,
    budget: int | None,
    full: bool,
    say: Say,
) -> dict[str, Entry]:
    """All samplers of a network and number of calls; tables that were found before are read.

    Args:
        field: Finds them.
        nfe: Network calls.
        ours: Those of this package.
        methods: Modules of the peers.
        folder: Of what was found before.
        what: What is said to be done.
        budget: Network calls of peers that learn by backprop where our own fit is not among ``ours``.
        full: They may spend as many as they like.
        say: Called with (what, done, total).

    Raises:
        InputError: such a peer, and no calls that our own fit spent.
    """
    found = field.classical(nfe)
    for done, name in enumerate((*ours, *methods)):
        say(what, done, len(ours) + len(methods))
        most = None
        if name in ours:
            find = field.own(name, found)
        else:
            module = methods[name]
            spent = found["gauss_newton"].about["calls"] if "gauss_newton" in found else budget
            if module.BACKPROP and spent is None and not full:
                raise InputError(f"{name} may spend as many network calls as gauss_newton did: run that first")
            most = spent if module.BACKPROP else None
            find = field.peer(module.find, nfe, most)

        def given(name: str = name) -> object:
            return field.end if name in ours else field.solution

        found[name] = _kept(folder / f"{name}-{nfe}.json", find, given, most, field.noise.device)
    say(what, 1, 1)
    return found


def _kept(
    file: Path, find: Callable[[], Entry], given: Callable[[], object], budget: int | None, device: torch.device
) -> Entry:
    """What was found before with the same budget, on whatever device, or is found now.

    Samplers that are no tables are found every time.

    What is given to all is made before: neither its time nor its memory is the sampler's.
    """
    raw = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if raw is not None and raw["about"].get("budget") == budget:
        return Entry(TableData(**raw["table"]).table(file.stem, {}), raw["about"])
    given()
    with PeakMemory(device) as memory:
        begin = time.perf_counter()
        entry = find()
        seconds = time.perf_counter() - begin
    entry.about |= {"seconds": seconds, "memory_mib": memory.peak_mib, "device": device_name(device)}
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
