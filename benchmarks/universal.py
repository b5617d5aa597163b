"""Universal tables against classical solvers on many networks, each by a table that never saw it; no calibration.

A network is judged by the cores that were fitted without it (``left_out``), on noise that no fit saw, and by the cores
that are shipped. Beside them stand the solvers that people use on the levels that diffusers gives them, and the best of
24 classical solvers and grids: the four that do best on the samples of the fits are measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.networks.members import MEMBERS, Member
from benchmarks.networks.solved import Solved
from longstride.arrays import Array
from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.calibration.scale import ROUGH, chosen
from longstride.calibration.starts.universal import PARTS
from longstride.cores.core import Core
from longstride.errors import LongstrideError
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.files import write_atomically
from longstride.journal import table_digest
from longstride.network import in_batches
from longstride.reports import Errors
from longstride.sampler import sample
from longstride.table import SolverTable

__all__ = ["FRESH", "measure", "ratios", "summary"]

#: First seed of noise that no fit saw.
FRESH = 10**6
#: Samples by milliseconds per call and sample.
_SAMPLES = ((1.7, 256), (5.0, 128), (16.0, 64), (math.inf, 32))
#: Classical solvers that are measured: so many of the best on the samples of the fits.
_BEST = 4
#: Principal components of a Fréchet distance, at most; an eighth of the samples at most.
_COMPONENTS = 16
#: Samples that choose the scale, and the calls at which they do.
_FEW, FIRST = 3, 5
#: Fewest samples of a Fréchet distance.
_FOR_FRECHET = 128


class _Judged:
    """Samplers of one network on fresh noise."""

    def __init__(self, member: Member, near: bool, folder: Path) -> None:
        count = next(n for cost, n in _SAMPLES if member.cost <= cost)
        self.solved = Solved(member, range(FRESH, FRESH + count), near, folder)
        target = self.solved.target.flatten(1).double()
        centred = target - target.mean(0)
        components = min(_COMPONENTS, count // 8, target.shape[1])
        self.axes = torch.linalg.svd(centred, full_matrices=False)[2][:components].T
        self.truth = Moments.of((target @ self.axes).numpy())

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


def _part(solved: Solved, core: Core) -> float:
    """The scale that :func:`longstride.measure_std` would choose, by a core that never saw the network."""
    few = slice(0, _FEW)
    denoiser, noise = solved.denoiser.select(few), solved.noise[few]
    rough = solve_reference(denoiser, noise, solved.core(core), steps=ROUGH, check_samples=0)
    squared = {}
    for part in PARTS:
        try:
            squared[part] = squared_errors(sample(denoiser, noise, solved.core(core, part)), rough.samples)
        except LongstrideError:  # the start is too near for this scale
            continue
    return chosen(squared)


def measure(
    near: bool,
    calls: Sequence[int],
    left_out: Callable[[Member, int], Core | None],
    shipped: Callable[[Member, int, float], Core],
    folder: Path,
    out: Path,
    names: Sequence[str] | None = None,
) -> None:
    """Measure all networks, and write a results file after each.

    Args:
        near: Whether samples begin as Stable Diffusion's do, in place of the network's own start.
        calls: Numbers of network calls.
        left_out: The core that was fitted without a network, or None if there is none.
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
        judged = _Judged(member, near, folder)
        solved = judged.solved
        before = Solved(member, range(member.samples), near, folder)
        kept = results.setdefault("near" if near else "own", {}).setdefault(name, {})
        kept |= {"kind": member.kind, "guidance": member.guidance, "samples": len(solved.noise), "std": solved.data_std}
        first = {"left_out": left_out(member, FIRST), "shipped": shipped(member, FIRST, solved.start_in_units)}
        parts = {key: 1.0 if core is None else _part(before, core) for key, core in first.items()}
        kept["parts"] = parts
        for nfe in calls:
            ranked = {k: e for k, e in before.classical(nfe).items() if np.isfinite(e).all()}
            best = sorted(ranked, key=lambda key: float(np.sqrt(ranked[key]).mean()))[:_BEST]
            usual = list(solved.usual_names)
            line: dict[str, Any] = {"classical": {}, "usual": usual}
            for key in dict.fromkeys((*usual, *best)):
                try:
                    line["classical"][key] = judged.line(solved.classical_table(key, nfe))
                except LongstrideError as error:
                    print(f"{name}: {key}: {str(error)[:80]}", flush=True)
            ours = {"left_out": left_out(member, nfe), "shipped": shipped(member, nfe, solved.start_in_units)}
            for key, core in ours.items():
                if core is not None:
                    line[key] = judged.line(solved.core(core))
                    line[f"{key}_scaled"] = judged.line(solved.core(core, parts[key]))
            kept[str(nfe)] = line
            print(name, nfe, {key: round(value, 3) for key, value in ratios(line, "rmse").items()}, flush=True)
        write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())


def ratios(line: Mapping[str, Any], measure: str) -> dict[str, float]:
    """Ratios to the best usual solver and to the best classical solver."""
    classical = line["classical"]
    found = dict[str, float]()
    if any(measure not in one for one in classical.values()):
        return found
    usual = min(classical[key][measure] for key in line["usual"] if key in classical)
    best = min(one[measure] for one in classical.values())
    for key in ("left_out", "left_out_scaled", "shipped", "shipped_scaled"):
        if key in line:
            found[f"{key}/usual"] = line[key][measure] / usual
            found[f"{key}/best"] = line[key][measure] / best
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
