"""Finished universal cores: which there are, between which networks, and those that never saw a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.networks.members import Member, guided
from benchmarks.networks.solved import NEAR
from longstride.cores.core import UNIT, Core
from longstride.grid import grid
from longstride.interpolate import fill_nfe
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = [
    "CORES",
    "WORK",
    "chosen",
    "core_of",
    "core_of_table",
    "cores",
    "filled",
    "kind_of",
    "left_out",
    "scaled",
    "start_of",
    "unseen",
]

#: Solutions of samples, which can be made again, and the fits.
WORK, CORES = Path("training/work/universal"), Path("training/cores")
OWN = 80.0
#: Cores of the networks' own starts: guidance scales, and whether they are of dark pictures.
_KINDS = ((1.0, False), (3.0, False), (7.5, False), (1.0, True))
#: Networks that no table is fitted on: large ones of a kind that others stand for.
_ASIDE = {"roman120", "ztf64", "hsc64", "quasar72"}


def start_of(start: str) -> float:
    """First level of a core."""
    return OWN if start == "own" else NEAR * UNIT


def chosen(guidance: float, start: str, fold: int | None, dark: bool = False) -> list[Member]:
    """The networks of a fit: of all kinds, or with ``dark`` those of dark pictures alone."""
    every = guided(None if guidance == 1 else guidance)
    every = [one for one in every if one.name not in _ASIDE and (start == "near" or one.start is None)]
    every = [one for one in every if (one.dark if dark else one.kind != "stars")]
    return [one for n, one in enumerate(every) if fold is None or n % 4 != fold]


def core_of_table(table: SolverTable) -> Core:
    """A table of the ratio frame, on data of standard deviation 1/2, as a core."""
    return Core(float(table.sigmas[0]), table.sigmas[1:-1], np.tril(table.b[1:], -1))


def kind_of(dark: bool, fold: int | None) -> str:
    """What names of fits end in."""
    return "-dark" * dark + ("" if fold is None else f"-fold{fold}")


def cores(start: str, guidance: float, fold: int | None, dark: bool = False) -> dict[int, Core]:
    """Finished cores by their number of calls."""
    found = {}
    end = kind_of(dark, fold)
    for file in CORES.glob(f"{start}-w{guidance:g}-k*{end}.json"):
        calls = file.stem.removeprefix(f"{start}-w{guidance:g}-k").removesuffix(end)
        if calls.isdigit():
            kept = json.loads(file.read_text())
            if kept.get("finished"):
                core = Core.of(np.array(kept["numbers"]), int(calls), start_of(start))
                found[int(calls)] = scaled(core, kept.get("scale", 1.0))
    return found


def scaled(core: Core, by: float) -> Core:
    """A core that is at a multiple of the standard deviation of the data what another is at once that."""
    return Core(by * core.start, by * core.levels, core.weights)


def core_of(known: dict[int, Core], nfe: int) -> Core:
    """The core of so many calls: fitted, or filled in."""
    return known[nfe] if nfe in known else filled(known, nfe)


def filled(known: dict[int, Core], nfe: int) -> Core:
    """A core between two fits; beyond the last fit, between it and a classical table."""
    tables = {k: core.table(data_std=UNIT, start=core.start) for k, core in known.items()}
    if nfe > max(known):
        start = next(iter(known.values())).start
        levels = grid("log_snr", 4 * nfe, sigma_min=0.1, sigma_max=start)
        tables[4 * nfe] = build("ipndm", levels, order=3)
    return core_of_table(fill_nfe(tables, nfe))


def left_out(member: Member, nfe: int) -> dict[tuple[float, bool], Core]:
    """Cores that were fitted without a network, guided or not, by their scale and whether they are of dark pictures.

    Where no fit makes so many calls, a core is filled in, as the shipped ones are.
    """
    alone, found = member.name.partition("@")[0], {}
    for w, dark in _KINDS:
        order = [one.name.partition("@")[0] for one in chosen(w, "own", None, dark)]
        known = cores("own", w, order.index(alone) % 4 if alone in order else None, dark)
        if known and nfe >= min(known):
            found[w, dark] = core_of(known, nfe)
    return found


def unseen(member: Member, nfe: int) -> dict[tuple[float, bool], Core]:
    """The same; of fewer calls than were fitted without networks, cores that saw all."""
    every = {(w, dark): cores("own", w, None, dark).get(nfe) for w, dark in _KINDS}
    return {**{kind: core for kind, core in every.items() if core}, **left_out(member, nfe)}
