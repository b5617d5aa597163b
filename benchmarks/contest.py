"""The benchmark against peers: every method on the same networks, the same noise and the same number of calls.

Who takes part: every classical solver, on the grid that calibration noise says is its best; the published forms of IIA;
longstride's own fits; and what other people have published, one file each in :mod:`benchmarks.peers`. All are given the
same calibration noise and its converged solution. All are measured on noise that none has seen.

What was found and what was measured is kept by number of calls. A run goes on where it stopped, and another number of
calls is added to the same results file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.field import FULL, IIA, OURS, STAGED, Field, PeerCase
from benchmarks.paper import CASES, Case
from benchmarks.peak_memory import PeakMemory, device_name
from benchmarks.peer_task import Found
from benchmarks.peers import PEERS, PeerModule
from longstride.calibration.starts.classical import CLASSICAL
from longstride.card_parts import TableData
from longstride.errors import InputError, unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.fitting import Say
from longstride.evaluation.measure import Key
from longstride.evaluation.results import Results, load_results, merged, save_results
from longstride.evaluation.runner import measure_samplers
from longstride.evaluation.source import Sampler
from longstride.evaluation.study import Study
from longstride.files import write_atomically
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["OURS", "PeerCase", "Wish", "chosen_peers", "peer_cases", "run_peers"]

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


@dataclass(frozen=True)
class Wish:
    """The part of the benchmark that a run is for.

    Attributes:
        nfes: Network calls; default: the case's.
        names: Samplers to find besides the classical ones, of :data:`~benchmarks.peers.PEERS`,
            :data:`~benchmarks.field.IIA` and :data:`OURS`; default: all.
        times: Other than 1: only peers that learn by backprop, with so many times the calls of our own fit. Tables name
            them ``NAME_xTIMES``.
        full: Only these peers, with all iterations of their schedules, as ``NAME_full``; and our own fit with more
            steps.
        usual: Only classical solvers, on the levels that users get by default, as ``SOLVER@GRID``. ``names`` are then
            classical solvers; default: all.
        seed: Shifts every seed.
    """

    nfes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    times: float = 1.0
    full: bool = False
    usual: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.usual and (self.full or self.times != 1):
            raise InputError("classical solvers have no schedule to be run in full or cut: choose usual, full or times")
        for name in self.names if self.usual else ():
            if name not in CLASSICAL:
                raise unknown("classical solver", name, CLASSICAL)
        if self.full and self.times != 1:
            raise InputError(f"full schedules are not to be cut to {self.times:g} times our calls: choose one of both")


@dataclass(frozen=True)
class _Searches:
    """The samplers that a run finds: names of ours, modules of peers, and labels of the peers."""

    ours: tuple[str, ...]
    peers: dict[str, PeerModule]
    labels: dict[str, str]
    full: bool

    @classmethod
    def of(cls, one: PeerCase, wish: Wish) -> _Searches:
        """The searches that a wish is for on a network.

        Raises:
            InputError: no such sampler, or ``full`` or ``times`` and no peer that learns by backprop.
        """
        if wish.usual:
            return cls((), {}, {}, full=False)
        names, peers = wish.names, chosen_peers(wish.names, backprop=one.backprop)
        if not wish.full and wish.times == 1:
            ours = tuple(name for name in (*IIA, *OURS) if not names or name in names)
            return cls(ours, peers, {name: peer.LABEL for name, peer in peers.items()}, full=False)
        if wish.full:
            suffix, what = "full", "full schedule"
        else:
            suffix, what = f"x{wish.times:g}", f"{wish.times:g} × the calls"
        peers = {f"{name}_{suffix}": peer for name, peer in peers.items() if peer.BACKPROP}
        ours = tuple(FULL) if wish.full and (not names or "gauss_newton" in names) else ()
        if not (peers or ours):
            raise InputError(
                f"no peer that learns by backprop is to be run on {one.case.slug}: leave out full and times"
            )
        return cls(ours, peers, {name: f"{peer.LABEL}, {what}" for name, peer in peers.items()}, wish.full)


def chosen_peers(names: tuple[str, ...], *, backprop: bool) -> dict[str, PeerModule]:
    """The peers among some samplers; names of this package's own samplers are passed over.

    Args:
        names: Samplers; none: all peers.
        backprop: Whether peers that need gradients of the network are among them.

    Raises:
        InputError: no such sampler.
    """
    for name in names:
        if name not in (*PEERS, *IIA, *OURS):
            raise unknown("sampler", name, (*PEERS, *IIA, *OURS))
    wanted = [name for name in names or PEERS if name in PEERS]
    return {name: PEERS[name] for name in wanted if backprop or not PEERS[name].BACKPROP}


def run_peers(
    model: Model,
    one: PeerCase,
    out: Path,
    wish: Wish | None = None,
    say: Say = lambda what, done, total: None,
) -> Results:
    """Run the benchmark on one network, and add to ``out / peers_CASE.json``.

    Args:
        model: The network.
        one: Network calls and samples of the network.
        out: Folder of the results; ``work`` in it keeps finished parts.
        wish: The part to run; default: all.
        say: Called with (what is being done, done, total).

    Raises:
        InputError: no such sampler, no calls that our own fit spent, or ``full`` or ``times`` and no peer that learns
            by backprop.
    """
    wish = wish or Wish()
    case, searches = one.case, _Searches.of(one, wish)
    study = Study(
        contestants=(),
        samples=case.samples,
        batch_size=case.batch_size * 2,
        calibration_samples=one.samples,
        guidance=case.guidance,
        nfes=wish.nfes or one.nfes,
        seed=wish.seed,
    )
    folder = out / "work" / f"peers_{case.slug}"
    file = out / f"peers_{case.slug}.json"

    def measure(nfe: int, found: Mapping[str, Found]) -> Results:
        samplers: dict[Key, Sampler] = {(name, nfe): each.sampler for name, each in found.items()}
        plain = ("classical", *CLASSICAL, *STAGED)
        bases = {name: None if name.partition("@")[0] in plain else "classical" for name in found}
        ends = base_table(model.schedule, "ddim", nfe)
        others = not (wish.usual and file.exists())  # an earlier run may have measured the yardstick
        measured = measure_samplers(
            model, study, ends, samplers, bases, folder / "measured", others=others, say=say, keep=True
        )
        search = {f"{name}-{nfe}": each.about for name, each in found.items()}
        new = Results({**measured.about, "search": search, "labels": searches.labels}, measured.lines)
        results = merged(load_results(file), new) if file.exists() else new
        save_results(results, file)
        return results

    field = Field(model, one, wish.seed, folder / "solution")
    if wish.usual:
        for nfe in study.nfes:
            results = measure(nfe, field.usual(nfe, wish.names or tuple(CLASSICAL)))
        return results
    for nfe in study.nfes:
        known = load_results(file).about["search"] if file.exists() else {}
        spent = known.get(f"gauss_newton-{nfe}", {}).get("calls")
        budget = None if spent is None or wish.full else int(wish.times * spent)

        def told(done: int, total: int, nfe: int = nfe) -> None:
            say(f"{case.slug} at {nfe} calls", done, total)

        results = measure(nfe, _find(field, nfe, searches, folder / "found", budget, told))
    for nfe, wanted in YARDSTICKS.items():
        if nfe not in results.nfes:
            results = measure(nfe, field.classical(nfe, wanted))
    return results


def _find(
    field: Field,
    nfe: int,
    searches: _Searches,
    folder: Path,
    budget: int | None,
    told: Callable[[int, int], None],
) -> dict[str, Found]:
    """All samplers of a network and number of calls; tables that were found before are read.

    Args:
        field: Finds the samplers.
        nfe: Network calls.
        searches: The samplers beside the classical ones.
        folder: Of what was found before.
        budget: Network calls of peers that learn by backprop, if our own fit is not among the searches.
        told: Called with (done, total).

    Raises:
        InputError: such a peer, and no calls that our own fit spent.
    """
    found = field.classical(nfe)
    names = (*searches.ours, *searches.peers)
    for done, name in enumerate(names):
        told(done, len(names))
        most = None
        if name in searches.ours:
            find = field.own(name, found)
        else:
            peer = searches.peers[name]
            spent = found["gauss_newton"].about["calls"] if "gauss_newton" in found else budget
            if peer.BACKPROP and spent is None and not searches.full:
                raise InputError(f"{name} may spend as many network calls as gauss_newton did: run that first")
            most = spent if peer.BACKPROP else None
            find = field.peer(peer.find, nfe, most)

        def given(name: str = name) -> object:
            return field.end if name in searches.ours else field.solution

        found[name] = _kept(folder / f"{name}-{nfe}.json", find, given, most, field.noise.device)
    told(1, 1)
    return found


def _kept(
    file: Path, find: Callable[[], Found], given: Callable[[], object], budget: int | None, device: torch.device
) -> Found:
    """What was found before with the same budget, on whatever device, or is found now.

    A sampler that is no table is found every time. Whatever all samplers are given is made before the clock starts.
    """
    raw = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if raw is not None and raw["about"].get("budget") == budget:
        return Found(TableData(**raw["table"]).table(file.stem, {}), raw["about"])
    given()
    with PeakMemory(device) as memory:
        begin = time.perf_counter()
        found = find()
        seconds = time.perf_counter() - begin
    about = {**found.about, "seconds": seconds, "memory_mib": memory.peak_mib, "device": device_name(device)}
    about = json.loads(json.dumps(about, default=float))
    if isinstance(found.sampler, SolverTable):
        content = {"table": TableData.of(found.sampler).model_dump(), "about": about}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(content).encode())
    return Found(found.sampler, about)
