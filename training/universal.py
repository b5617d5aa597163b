"""Fit universal tables: one core of every number of calls, start and guidance, on all networks.

    python -m training.universal fit --calls 5 --start own --guidance 1     # minutes to an hour on one core
    python -m training.universal fit --calls 5 --fold 0                     # without every fourth network
    python -m training.universal fit --calls 5 --dark --robust 8            # for dark pictures
    python -m training.universal export --calls 3 4 5 6 7 8 9 10 11 12      # into the package
    python -m training.universal try --calls 5 8                            # each network by a table without it
    python -m training.universal budgets --calls 5 8                        # calibrations from such tables
    python -m training.universal starts --calls 5 8                         # what they are worth as starts
    python -m training.universal ranks --calls 8 12                         # derivatives by a few directions
    python -m training.universal spread --calls 5 8                         # how networks differ from them

A fit goes on from its last step if the same command is given again. Networks that others trained lie in the folder
``zoo`` of the checkout (``benchmarks/networks/third_party.py`` says which); the galaxy networks need ``galaxygrad``,
mixtures need ``scikit-learn``.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks import budgets, universal_starts
from benchmarks.networks.joint import Goal, Joint
from benchmarks.networks.members import Member
from benchmarks.networks.solved import Solved
from benchmarks.universal import measure
from longstride.cores.choice import chosen_core
from longstride.cores.core import Core
from longstride.errors import InputError
from longstride.files import write_atomically
from longstride.grid import grid
from longstride.solvers import VARIANTS, build
from longstride.table import SolverTable
from training.kept import (
    CORES,
    WORK,
    chosen,
    core_of,
    core_of_table,
    cores,
    filled,
    kind_of,
    left_out,
    scaled,
    start_of,
    unseen,
)
from training.spread import measure_spread, shortened

RESULTS = Path("benchmarks/results")
EXPORTED = Path("src/longstride/cores/cores.json")
#: Scale of the levels of pictures of a few bright objects on a dark ground, over the data's standard deviation, which
#: says little of them.
_DARK = 2.0
#: Classical tables that a fit may start from.
_STARTS = (
    ("ipndm3", "log_snr"),
    ("ipndm3", "karras"),
    ("ipndm2", "log_snr"),
    ("unipc2", "log_snr"),
    ("unipc2", "flow"),
    ("ipndm3", "flow"),
)


def starts(nfe: int, start: str, known: dict[int, Core]) -> dict[str, Core]:
    """Classical tables as cores, and one filled in between cores of other numbers of calls."""
    first, found = start_of(start), {}

    def classical(solver: str, spacing: str, calls: int) -> SolverTable:
        if spacing == "flow":
            part = np.linspace(first / (1 + first), 0.1, calls)
            levels = np.append(part / (1 - part), 0.0)
        else:
            levels = grid(spacing, calls, sigma_min=0.06 if spacing == "karras" else 0.1, sigma_max=first)
        return build(VARIANTS[solver].solver, levels, **VARIANTS[solver].options)

    for solver, spacing in _STARTS:
        found[f"{solver}@{spacing}"] = core_of_table(classical(solver, spacing, nfe))
    if known and nfe > min(known):
        try:
            found["filled"] = filled(known, nfe)
        except InputError as error:
            print(f"not filled: {error}", flush=True)
    return found


def fit(
    nfe: int,
    start: str,
    guidance: float,
    fold: int | None,
    steps: int,
    q: float,
    part: float,
    robust: float,
    dark: bool,
    bright: bool,
) -> None:
    """One fit, from its last step if there is one."""
    name = f"{start}-w{guidance:g}-k{nfe}{kind_of(dark, fold)}"
    file = CORES / f"{name}.json"

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)

    if file.is_file() and json.loads(file.read_text()).get("finished"):
        return
    goals, lift = [], _DARK if start == "own" else 1.0
    scale = lift if dark else 1.0
    for one in chosen(guidance, start, fold, dark):
        if bright and one.dark:
            continue
        solved = Solved(one, range(one.samples), start == "near", WORK / "samples")
        goals.append(Goal.of(solved, nfe, max(4, round(part * one.samples)), lift if one.dark else 1.0, robust))
    joint = Joint(goals, start_of(start), q, say)
    done = json.loads(file.read_text()) if file.is_file() else None
    if done is None:
        known = {calls: scaled(core, 1 / scale) for calls, core in cores(start, guidance, fold, dark).items()}
        tables = starts(nfe, start, known)
        if guidance != 1 and nfe in (plain := cores(start, 1.0, fold)):
            tables["unguided"] = plain[nfe]
        losses = {key: joint.aggregate(joint.losses(core)) for key, core in tables.items()}
        best = min(losses, key=lambda key: losses[key])
        say(
            f"start {best}: "
            + ", ".join(f"{key} {loss:.2f}" for key, loss in sorted(losses.items(), key=lambda x: x[1])[:4])
        )
        done = {"numbers": tables[best].numbers.tolist(), "steps": 0, "start": best, "scale": scale}

    def keep(numbers: np.ndarray, losses: np.ndarray) -> None:
        done["numbers"], done["steps"] = numbers.tolist(), done["steps"] + 1
        done["losses"] = {goal.solved.member.name: float(loss) for goal, loss in zip(goals, losses, strict=True)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(done).encode())

    left = steps - done["steps"]
    if left > 0:
        joint.fit(np.array(done["numbers"]), nfe, left, keep=keep)
        done["finished"] = True
        write_atomically(file, json.dumps(done).encode())
    say(str({key: round(value, 3) for key, value in done["losses"].items()}))


def export(calls: list[int], file: Path) -> None:
    """Write the finished cores as the data of the package; a number of calls between two fits is filled in."""
    found, networks = [], {}
    for start, w, dark in (*product(("own", "near"), (1.0, 3.0, 7.5), (False,)), ("own", 1.0, True)):
        known = cores(start, w, None, dark)
        name = "dark" if dark else f"{start}, guidance {w:g}"
        networks[name] = sorted(one.name for one in chosen(w, start, None, dark))
        for nfe in (one for one in calls if one >= min(known)):
            core = core_of(known, nfe)
            weights = core.weights[np.tril_indices(nfe, -1)]
            found.append(
                {
                    "nfe": nfe,
                    "start": core.start,
                    "guidance": w,
                    **({"dark": True} if dark else {}),
                    "levels": [float(f"{x:.6g}") for x in core.levels],
                    "weights": [round(x, 6) for x in weights.tolist()],
                }
            )
    kept = {nfe: CORES / f"spread-k{nfe}.json" for nfe in calls}
    read = {nfe: json.loads(one.read_text()) for nfe, one in kept.items() if one.is_file()}
    moves = {nfe: {name: shortened(own) for name, own in every.items()} for nfe, every in read.items()}
    text = json.dumps({"format": 1, "networks": networks, "moves": moves, "cores": found})
    lines = text.replace('{"nfe"', '\n{"nfe"').replace('}, "', '},\n"')
    write_atomically(file, (lines + "\n").encode())


def try_out(calls: list[int], near: bool, names: list[str] | None, out: Path) -> None:
    """Measure the cores on all networks."""

    def shipped(member: Member, nfe: int, start: float) -> Core:
        return chosen_core(nfe, start, 1.0 if member.guidance is None else member.guidance, member.dark)

    def never(member: Member, nfe: int) -> dict[tuple[float, bool], Core]:
        return {} if near else left_out(member, nfe)

    measure(near, calls, never, shipped, WORK / "samples", out, names)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["fit", "export", "try", "budgets", "starts", "ranks", "spread"])
    parser.add_argument("--calls", type=int, nargs="+", default=[5])
    parser.add_argument("--start", choices=["own", "near"], default="own")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--fold", type=int, default=None)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--q", type=float, default=3.0)
    parser.add_argument("--part", type=float, default=1.0, help="part of the samples that is used")
    parser.add_argument(
        "--robust", type=float, default=1.0, help="errors beyond it count less, in median squared errors"
    )
    parser.add_argument("--dark", action="store_true", help="fit on pictures of a few bright objects alone")
    parser.add_argument("--bright", action="store_true", help="fit without them")
    parser.add_argument("--draws", type=int, default=1, help="calibrations of each kind, for starts and ranks")
    parser.add_argument("--names", nargs="+", help="networks to try; default: all")
    parser.add_argument("--out", type=Path, help="results file; default: of the action")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if given.action == "export":
        export(given.calls, EXPORTED)
        return
    if given.action == "try":
        try_out(given.calls, given.start == "near", given.names, given.out or RESULTS / "universal.json")
        return
    if given.action == "budgets":
        out = given.out or RESULTS / "budgets.json"
        budgets.measure(given.calls, left_out, WORK / "samples", out, given.names or budgets.NETWORKS)
        return
    if given.action == "starts":
        out, names = given.out or RESULTS / "universal_starts.json", given.names or universal_starts.NETWORKS
        universal_starts.measure(given.calls, left_out, WORK / "samples", out, names, given.draws)
        return
    if given.action == "ranks":
        out, arms = given.out or RESULTS / "ranks.json", universal_starts.RANKS
        names = given.names or ("wine", "flower", "china", "small_digits", "hsc32")
        universal_starts.measure(given.calls, left_out, WORK / "samples", out, names, given.draws, arms)
        return
    for nfe in given.calls if given.action == "spread" else ():
        measure_spread(nfe, unseen, WORK / "samples", CORES / f"spread-k{nfe}.json")
    for nfe in given.calls if given.action == "fit" else ():
        fit(
            nfe,
            given.start,
            given.guidance,
            given.fold,
            given.steps,
            given.q,
            given.part,
            given.robust,
            given.dark,
            given.bright,
        )


if __name__ == "__main__":
    main()
