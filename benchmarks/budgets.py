"""Quality against the budget of a calibration, from universal tables that never saw the network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.guard_tails import tails
from benchmarks.networks.members import MEMBERS, Member
from benchmarks.networks.solved import Solved
from benchmarks.universal import FRESH, only
from longstride.arrays import Array
from longstride.calibration import calibrate
from longstride.calibration.budget import Plan, plan_for
from longstride.cores.core import Core
from longstride.files import write_atomically
from longstride.reports import Errors

__all__ = ["BUDGETS", "FRESH_SAMPLES", "NETWORKS", "measure", "summary"]

#: Network calls, references included; the last is the default calibration.
BUDGETS = (1000.0, 2000.0, 3000.0, 5000.0, 10000.0, math.inf)
#: Networks of five kinds of data, two of them guided.
NETWORKS = ("hsc32", "garments_flow", "small_digits", "flower", "china", "wine", "digits@3", "digits@7.5", "wine@3")
#: Samples that every calibration is judged by.
FRESH_SAMPLES = 256
#: Calibrations within every budget, each on noise of its own.
DRAWS = 4
_FAILED = 1e6


def measure(
    calls: Sequence[int],
    cores: Callable[[Member, int], Mapping[tuple[float, bool], Core]],
    folder: Path,
    out: Path,
    names: Sequence[str],
) -> None:
    """Calibrate every network within every budget, and measure on fresh noise.

    Args:
        calls: Numbers of network calls.
        cores: Cores that were fitted without a network, by guidance scale and whether they are of dark pictures.
        folder: Where solutions are kept.
        out: The results file; what it holds is not measured again.
        names: Networks.
    """
    results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for name in names:
        member = MEMBERS[name]
        w = 1.0 if member.guidance is None else member.guidance
        fresh = Solved(member, range(FRESH, FRESH + FRESH_SAMPLES), False, folder)
        for nfe in calls:
            own = {key: core for key, core in cores(member, nfe).items() if key[0] == w}
            line = results.setdefault(name, {}).setdefault(str(nfe), {})
            if (core := own.get((w, member.dark))) is None:
                continue
            before = fresh.squared(fresh.core(core))
            line.setdefault("universal", _errors(before))
            for budget in BUDGETS:
                key = "default" if math.isinf(budget) else f"{budget:.0f}"
                if key not in line:
                    line[key] = _calibrated(fresh, own, before, budget, nfe)
                    print(name, nfe, key, line[key], flush=True)
                    write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())


def _calibrated(
    fresh: Solved, cores: Mapping[tuple[float, bool], Core], before: Array, budget: float, nfe: int
) -> dict[str, Any]:
    """Means over draws: geometric ones of errors, tails beside the universal table, and network calls.

    ``worse_2`` and ``worse_4`` are the shares of samples more than so many times as far off as with the universal table
    that never saw the network, whose squared errors are ``before``. ``largest`` is the largest error of a sample in any
    draw.
    """
    member, model = fresh.member, fresh.model
    try:
        plan: Plan = plan_for(budget, nfe, 1 if member.guidance is None else 2)
    except ValueError:
        return {"calls": 0}
    like = fresh.classical_table("ddim@log_snr", nfe)
    found, far, calls, accepted = list[dict[str, Any]](), list[dict[str, float]](), list[int](), 0
    for draw in range(DRAWS):
        seeds = range(1000 * draw, 1000 * draw + plan.samples)
        with only({nfe: cores}, member.name):
            result = calibrate(
                model.denoiser(seeds, member.guidance),
                model.noise(seeds, float(like.sigmas[0])),
                like,
                held_out=plan.held_out,
                reference_steps=plan.reference_steps,
                monitor=0,
                batch_size=64,
                **plan.settings,
            )
        squared = fresh.squared(result.table)
        found.append(_errors(squared))
        far.append(tails(squared, before))
        calls.append(result.calls)
        accepted += result.end.accepted
    means = {key: math.exp(float(np.mean(np.log([one[key] for one in found])))) for key in found[0]}
    shares = {key: float(np.mean([one[key] for one in far])) for key in ("worse_2", "worse_4")}
    means |= {**shares, "largest": max(one["largest"] for one in far)}
    return {**means, "calls": round(float(np.mean(calls))), "accepted": accepted, "draws": DRAWS}


def _errors(squared: Array) -> dict[str, Any]:
    return asdict(Errors.of(np.nan_to_num(squared, nan=_FAILED, posinf=_FAILED)))


def summary(results: dict[str, Any], nfe: int, key: str, kind: str = "rmse") -> tuple[float, float, int]:
    """Geometric mean and worst of the error over that of the default calibration, and the number of networks."""
    lines = [one[str(nfe)] for one in results.values() if str(nfe) in one]
    ratios = [one[key][kind] / one["default"][kind] for one in lines if kind in one.get(key, {}) and "default" in one]
    return (math.exp(float(np.mean(np.log(ratios)))), max(ratios), len(ratios)) if ratios else (math.nan, math.nan, 0)
