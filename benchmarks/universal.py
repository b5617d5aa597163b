"""Universal tables against classical solvers on many networks, each by a table that never saw it; no calibration.

A network is judged by the cores that were fitted without it (``left_out``), on noise that no fit saw, and by the cores
that are shipped. Beside them stand the solvers that people use on the levels that diffusers gives them, and the best of
24 classical solvers and grids: the four that do best on the samples of the fits are measured.

What :func:`longstride.choose` takes is measured, too, with cores that never saw the network. A choice by three samples
is chance in part, so that it is made several times, each on samples of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks.members import MEMBERS, Member
from benchmarks.networks.solved import Solved
from longstride.arrays import Array
from longstride.calibration.choose import Choice, choose
from longstride.calibration.reference.solve import squared_errors
from longstride.cores.choice import _moves, closest_start
from longstride.cores.core import Core
from longstride.errors import LongstrideError
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.files import write_atomically
from longstride.journal import table_digest
from longstride.network import in_batches
from longstride.reports import Errors
from longstride.sampler import sample
from longstride.table import SolverTable

__all__ = ["FRESH", "measure", "only", "ratios", "summary"]

#: First seed of noise that no fit saw.
FRESH = 10**6
#: Nearest start of the tables of the package, of dark pictures or not.
_NEAREST = {dark: closest_start(dark) for dark in (False, True)}
#: Samples by milliseconds per call and sample.
_SAMPLES = ((1.7, 256), (5.0, 128), (16.0, 64), (math.inf, 32))
#: Classical solvers that are measured: so many of the best on the samples of the fits.
_BEST = 4
#: Principal components of a Fréchet distance, at most; an eighth of the samples at most.
_COMPONENTS = 16
#: First seed of samples that choose, their number, the calls at which they do, and how often they do.
_CHOOSING, _FEW, FIRST, _DRAWS = 3 * 10**6, 3, 5, 5
#: Fewest samples of a Fréchet distance.
_FOR_FRECHET = 128


class _Judged:
    """Samplers of one network on fresh noise."""

    def __init__(self, member: Member, near: bool, folder: Path, data_std: float | None) -> None:
        count = next(n for cost, n in _SAMPLES if member.cost <= cost)
        self.solved = Solved(member, range(FRESH, FRESH + count), near, folder, data_std)

    @cached_property
    def axes(self) -> Tensor:
        """Principal axes of the converged samples, one a column."""
        target = self.solved.target.flatten(1).double()
        components = min(_COMPONENTS, len(target) // 8, target.shape[1])
        axes: Tensor = torch.linalg.svd(target - target.mean(0), full_matrices=False)[2][:components].T
        return axes

    @cached_property
    def truth(self) -> Moments:
        """Moments of the converged samples along the axes."""
        return Moments.of((self.solved.target.flatten(1).double() @ self.axes).numpy())

    def of(self, table: SolverTable) -> dict[str, Array]:
        """Squared errors of a table, and coordinates of its samples."""

        def run() -> dict[str, Array]:
            with torch.inference_mode():
                end = sample(in_batches(self.solved.denoiser, 32), self.solved.noise, table)
            return {
                "squared": squared_errors(end, self.solved.target),
                "at": (end.flatten(1).double() @ self.axes).numpy(),
            }

        return self.solved.journal(f"judged/{table_digest(table)[:20]}", run)

    def line(self, table: SolverTable) -> dict[str, float]:
        """Root-mean-square and median error, and the Fréchet distance where there are enough samples."""
        found = self.of(table)
        squared = found["squared"]
        line = asdict(Errors.of(squared))
        if len(squared) >= _FOR_FRECHET:
            line["frechet"] = frechet_distance(Moments.of(found["at"]), self.truth)
        return line


def _choice(member: Member, near: bool, draw: int, data_std: float) -> Choice:
    """What :func:`longstride.choose` takes on some samples."""
    begin = _CHOOSING + draw * _FEW
    solved = Solved(member, range(begin, begin + _FEW), near)
    like = solved.classical_table("ddim@log_snr", FIRST)
    return choose(solved.denoiser, solved.noise, like, data_std=data_std)


def measure(
    near: bool,
    calls: Sequence[int],
    left_out: Callable[[Member, int], Mapping[tuple[float, bool], Core]],
    shipped: Callable[[Member, int, float], Core],
    folder: Path,
    out: Path,
    names: Sequence[str] | None = None,
) -> None:
    """Measure all networks, and write a results file after each; what it holds is not measured again.

    Args:
        near: Whether samples begin as Stable Diffusion's do, in place of the network's own start.
        calls: Numbers of network calls.
        left_out: The cores that were fitted without a network, by guidance scale and whether they are of dark pictures.
        shipped: The core that is shipped, for a network, a number of calls, and its start in standard deviations.
        folder: Where solutions are kept.
        out: The results file.
        names: Networks; default: all.
    """
    results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for name in names or MEMBERS:
        member = MEMBERS[name]
        if near is False and member.start is not None:
            continue
        kept = results.setdefault("near" if near else "own", {}).setdefault(name, {})
        judged = _Judged(member, near, folder, kept.get("std"))
        solved = judged.solved
        kept |= {"kind": member.kind, "guidance": member.guidance, "samples": len(solved.seeds), "std": solved.data_std}
        w = 1.0 if member.guidance is None else member.guidance
        cores = {n: left_out(member, n) for n in {FIRST, *calls}}
        own = {nfe: every.get((w, member.dark)) for nfe, every in cores.items()}
        lines = {nfe: kept.setdefault(str(nfe), {}) for nfe in calls}
        for nfe, line in lines.items():
            if "classical" not in line:
                line |= _classical(judged, Solved(member, range(member.samples), near, folder), nfe)
            ours = {"left_out": own[nfe], "shipped": shipped(member, nfe, solved.start_in_units)}
            line |= {key: judged.line(solved.core(core)) for key, core in ours.items() if core and key not in line}
        missing = [nfe for nfe, line in lines.items() if cores[FIRST] and cores[nfe] and "chosen" not in line]
        if missing:
            # Tables without a network were fitted for far starts alone: they serve nearer ones here, too.
            with (
                only(cores, member.name),
                patch("longstride.cores.choice.closest_start", lambda dark=False: _NEAREST[dark]),
            ):
                choices = [_choice(member, near, draw, solved.data_std) for draw in range(_DRAWS)]
                kept["choices"] = [_described(one) for one in choices]
                for nfe in missing:
                    line = lines[nfe]
                    measured = [(solved.classical_table(key, nfe), found) for key, found in line["classical"].items()]
                    measured += [(solved.core(one), line["left_out"])] if (one := own[nfe]) else []
                    line["chosen"] = [_line(judged, one.table(nfe), measured) for one in choices]
        for nfe, line in lines.items():
            print(name, nfe, {key: round(value, 3) for key, value in ratios(line, "rmse").items()}, flush=True)
        write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())


@contextmanager
def only(cores: Mapping[int, Mapping[tuple[float, bool], Core]], without: str) -> Iterator[None]:
    """For a while, these are the package's cores: by calls, guidance scale and whether they are of dark pictures.

    What is known of networks' own cores leaves out the network ``without``, guided or not; empty: none.
    """
    moves = {
        nfe: {name: own for name, own in every.items() if _alone(name) != _alone(without)}
        for nfe, every in _moves().items()
    }

    def known(dark: bool = False) -> dict[tuple[int, float, float], Core]:
        return {(nfe, one.start, w): one for nfe, every in cores.items() for (w, d), one in every.items() if d == dark}

    with patch("longstride.cores.choice._cores", known), patch("longstride.cores.choice._moves", lambda: moves):
        yield


def _alone(name: str) -> str:
    """Name of a network without its guidance scale."""
    return name.partition("@")[0]


def _described(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, **choice.options, "kurtosis": choice.kurtosis, "calls": choice.calls}


def _line(
    judged: _Judged, table: SolverTable, measured: Sequence[tuple[SolverTable, dict[str, float]]]
) -> dict[str, float]:
    """Errors of a table, which may have been measured already."""
    return next((one for other, one in measured if table.distance(other) < 1e-9), None) or judged.line(table)


def _classical(judged: _Judged, before: Solved, nfe: int) -> dict[str, Any]:
    """Solvers that people use, and the best on the samples of the fits."""
    ranked = {k: e for k, e in before.classical(nfe).items() if np.isfinite(e).all()}
    best = sorted(ranked, key=lambda key: float(np.sqrt(ranked[key]).mean()))[:_BEST]
    found, usual = dict[str, Any](), list(judged.solved.usual_names)
    for key in dict.fromkeys((*usual, *best)):
        try:
            found[key] = judged.line(judged.solved.classical_table(key, nfe))
        except LongstrideError as error:
            print(f"{before.member.name}: {key}: {str(error)[:80]}", flush=True)
    return {"classical": found, "usual": usual}


def ratios(line: Mapping[str, Any], measure: str) -> dict[str, float]:
    """Ratios to the best usual solver and to the best classical solver.

    Of several choices, ``"chosen"`` is the geometric mean, and ``"chosen_worst"`` the largest.
    """
    classical = line["classical"]
    found = dict[str, float]()
    if any(measure not in one for one in classical.values()):
        return found
    usual = min(classical[key][measure] for key in line["usual"] if key in classical)
    best = min(one[measure] for one in classical.values())
    ours = {key: line[key][measure] for key in ("left_out", "shipped") if key in line}
    if drawn := [one[measure] for one in line.get("chosen", [])]:
        ours |= {"chosen": math.exp(float(np.mean(np.log(drawn)))), "chosen_worst": max(drawn)}
    for key, value in ours.items():
        found |= {f"{key}/usual": value / usual, f"{key}/best": value / best}
    return found


def summary(networks: Mapping[str, Any], nfe: int, measure: str, kind: str) -> dict[str, Any]:
    """Geometric mean and worst of a ratio over networks.

    Args:
        networks: Results of networks.
        nfe: Network calls.
        measure: ``"rmse"``, ``"median"`` or ``"frechet"``.
        kind: Such as ``"left_out/usual"``.
    """
    every = {name: ratios(one.get(str(nfe), _EMPTY), measure) for name, one in networks.items()}
    known = {name: found[kind] for name, found in every.items() if kind in found}
    if not known:
        return {"networks": 0}
    worst = max(known, key=lambda name: known[name])
    mean = math.exp(float(np.mean(np.log(list(known.values())))))
    return {"networks": len(known), "mean": mean, "worst": known[worst], "of": worst}


_EMPTY: dict[str, Any] = {"classical": {"": {}}, "usual": []}
