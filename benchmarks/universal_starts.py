"""Other settings of the default calibration, on networks that universal tables never saw.

What universal tables are worth as starts, and what derivatives by a few directions per level cost and reach.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks.members import MEMBERS, Member
from benchmarks.networks.mixtures import MIXTURES
from benchmarks.networks.solved import Solved
from benchmarks.universal import FRESH, only
from longstride.arrays import Array
from longstride.calibration import Reference, calibrate, solve_reference
from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
from longstride.cores.core import Core
from longstride.files import write_atomically
from longstride.reports import Errors

__all__ = ["ARMS", "NETWORKS", "RANKS", "measure", "summary"]

#: Settings of the default calibration: from classical solvers alone, and from universal tables, too. Both have as many
#: whole fits.
ARMS: dict[str, dict[str, Any]] = {
    "classical": {"universal": False, "final_calls": 8_100},
    "universal": {"universal": True, "final_calls": 8_100},
}
#: Exact derivatives, and derivatives by a few directions per level.
RANKS: dict[str, dict[str, Any]] = {
    "exact": {"universal": True},
    "8 directions": {"universal": True, "rank": 8},
    "5 directions": {"universal": True, "rank": 5},
}
#: Networks of five kinds of data, three of them guided.
NETWORKS = (
    "wine",
    "wine@3",
    "flower",
    "china",
    "small_digits",
    "small_digits@7.5",
    "digits",
    "digits@3",
    "hsc32",
    "garments_flow",
)
#: Fresh samples, of exact networks and of trained ones, and a bound on errors where a sampler overflows. A few samples
#: rule a root-mean-square error.
_EXACT, _TRAINED, _FAILED = 1024, 256, 1e6
#: Samples per network call.
_BATCH = 64


def measure(
    calls: Sequence[int],
    cores: Callable[[Member, int], Mapping[tuple[float, bool], Core]],
    folder: Path,
    out: Path,
    names: Sequence[str],
    draws: int = 1,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
) -> None:
    """Calibrate every network with some settings, and measure on fresh noise.

    Args:
        calls: Numbers of network calls.
        cores: Cores that were fitted without a network, by guidance scale and whether they are of dark pictures.
        folder: Where solutions are kept.
        out: The results file; what it holds is not measured again.
        names: Networks.
        draws: Calibrations of each kind, each on noise of its own.
        arms: The settings, by name.
    """
    results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for name in names:
        member = MEMBERS[name]
        count = _EXACT if name.partition("@")[0] in MIXTURES else _TRAINED
        fresh = Solved(member, range(FRESH, FRESH + count), False, folder)
        for nfe in calls:
            line = results.setdefault(name, {}).setdefault(str(nfe), {})
            for draw in range(draws):
                missing = [arm for arm in arms if str(draw) not in line.get(arm, {})]
                one = _Draw(fresh, nfe, draw, cores(member, nfe)) if missing else None
                for arm in missing:
                    assert one is not None
                    line.setdefault(arm, {})[str(draw)] = found = one.calibrated(arms[arm])
                    print(name, nfe, arm, draw, found, flush=True)
                    write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())


class _Draw:
    """Calibrations of one network on the same noise, with one reference solution."""

    def __init__(self, fresh: Solved, nfe: int, draw: int, cores: Mapping[tuple[float, bool], Core]) -> None:
        self.fresh, self.nfe, self.cores = fresh, nfe, cores
        count = fitted_samples(nfe) + HELD_OUT
        seeds = range(draw * count, (draw + 1) * count)
        self.table = fresh.classical_table("ddim@log_snr", nfe)
        self.denoiser = fresh.model.denoiser(seeds, fresh.member.guidance)
        self.noise = fresh.model.noise(seeds, float(self.table.sigmas[0]))
        self.reference: Reference = solve_reference(self.denoiser, self.noise, self.table, batch_size=_BATCH)
        self.solved = self.denoiser.calls

    def calibrated(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Errors of the result and of its base on fresh noise, the start, the verdict, and network calls in all."""
        with only({self.nfe: self.cores}, self.fresh.member.name):
            result = calibrate(
                self.denoiser,
                self.noise,
                self.table,
                held_out=HELD_OUT,
                reference=self.reference,
                monitor=0,
                batch_size=_BATCH,
                **settings,
            )
        assert result.search is not None
        return {
            **_errors(self.fresh.squared(result.table)),
            "base": {"name": result.search.base, **_errors(self.fresh.squared(result.card.base_table))},
            "start": result.search.start,
            "accepted": result.end.accepted,
            "calls": result.calls + self.solved,
        }


def _errors(squared: Array) -> dict[str, Any]:
    return asdict(Errors.of(np.nan_to_num(squared, nan=_FAILED, posinf=_FAILED)))


def summary(
    line: Mapping[str, Mapping[str, Any]], kind: str, arms: Sequence[str] = tuple(ARMS)
) -> tuple[float, float, float]:
    """Errors of two arms, and the second over the first: geometric means over draws.

    Args:
        line: Results at one number of calls.
        kind: ``"rmse"``, ``"median"`` or ``"calls"``.
        arms: The two.
    """
    first, second = (
        math.exp(float(np.mean([math.log(max(one[kind], 1e-12)) for one in line[arm].values()]))) for arm in arms
    )
    return first, second, second / first
