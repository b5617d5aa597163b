"""Real answers for simulated roll-outs: errors and flags of a galaxy network's samples under several samplers.

=========  ========================================================================================================
sampler    what it is
=========  ========================================================================================================
base       the best classical solver of the calibrated card
better     the calibrated card
shuffled   the card with its weights of clean predictions in random order: a damaged file, a card of another model
subtle     the base blended with DDIM on its own levels until its RMSE is 1.5 times the base's
=========  ========================================================================================================

A sample is flagged if the root-mean-square of one of its clean predictions lies outside what 99 % of the calibration
samples had in that call. That is a simple stand-in for the guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import longstride as ls
from longstride.arrays import Array
from longstride.calibration.reference.solve import squared_errors
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.table import Row, SolverTable

__all__ = ["SUBTLE", "Pool", "draw_pool", "shuffled", "worse_by"]

#: RMSE of the subtle sampler, in that of its base.
SUBTLE = 1.5
_FITTED, _HELD_OUT = 96, 48


@dataclass(frozen=True)
class Pool:
    """Answers to the same requests by every sampler.

    Attributes:
        errors: Error of every sample by sampler, each ``(B,)``.
        flags: Whether it was flagged, by sampler.
    """

    errors: dict[str, Array]
    flags: dict[str, Array]

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> Pool:
        """The pool of :meth:`arrays`."""
        names = [name.removeprefix("errors-") for name in arrays if name.startswith("errors-")]
        return Pool({n: arrays[f"errors-{n}"] for n in names}, {n: arrays[f"flags-{n}"] for n in names})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All answers, to be kept in a file."""
        found = {f"errors-{name}": errors for name, errors in self.errors.items()}
        return {**found, **{f"flags-{name}": flags for name, flags in self.flags.items()}}

    def about(self) -> dict[str, dict[str, float]]:
        """RMSE, median and share of flags by sampler."""
        return {
            name: {
                "rmse": round(float(np.sqrt(np.mean(errors**2))), 5),
                "median": round(float(np.median(errors)), 5),
                "flags": round(float(self.flags[name].mean()), 4),
            }
            for name, errors in self.errors.items()
        }


def shuffled(table: SolverTable, seed: int = 0) -> SolverTable:
    """The table with its weights of clean predictions in random order."""
    rows = table.unrolled().rows
    weights = np.random.default_rng(seed).permutation([w for row in rows for w in row.outputs.values()]).tolist()
    taken = iter(weights)
    mixed = tuple(Row(row.states, {j: next(taken) for j in row.outputs}) for row in rows)
    return replace(table.unrolled(), rows=mixed, exact=False)


def _blend(base: SolverTable, other: SolverTable, part: float) -> SolverTable:
    one, two = base.unrolled(), other.unrolled()
    rows = tuple((1 - part) * a + part * b for a, b in zip(one.rows, two.rows, strict=True))
    return replace(one, rows=rows)


def worse_by(factor: float, base: SolverTable, rmse: Callable[[SolverTable], float]) -> SolverTable:
    """The base blended with DDIM so that its error, as ``rmse`` measures it, is ``factor`` times the base's."""
    ddim = ls.build("ddim", base.sigmas[list(base.grid)], alphas=base.alphas[list(base.grid)])
    wanted, low, high = factor * rmse(base), 0.0, 1.0
    while rmse(_blend(base, ddim, high)) < wanted:
        high *= 2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if rmse(_blend(base, ddim, middle)) < wanted else (low, middle)
    return _blend(base, ddim, high)


def draw_pool(model: ls.Model, nfe: int, samples: int) -> Pool:
    """Calibrate a card, and run all samplers on fresh noise."""
    seeds = seed_range("calibration", 0, _FITTED + _HELD_OUT)
    ends = base_table(model.schedule, "ddim", nfe)
    noise = model.noise(seeds, ends.sigmas[0])
    denoiser = model.denoiser(seeds)
    found = ls.calibrate(denoiser, noise, ends, held_out=_HELD_OUT, iterations=3, seed=0, universal=False)
    base = found.card.base_table
    fresh = seed_range("evaluation", 0, samples)
    noise, denoiser = model.noise(fresh, base.sigmas[0]), model.denoiser(fresh)
    converged = ls.solve_reference(denoiser, noise, base, check_samples=0).samples
    few = slice(min(64, samples))

    def run(table: SolverTable, part: slice) -> tuple[Array, Array]:
        norms: list[Tensor] = []
        x = ls.sample(
            denoiser.select(part),
            noise[part],
            table,
            callback=lambda k, sigma, x, prediction: norms.append(prediction.flatten(1).square().mean(1).log()),
        )
        return np.sqrt(squared_errors(x, converged[part])), torch.stack(norms, 1).double().cpu().numpy()

    def rmse(table: SolverTable) -> float:
        return float(np.sqrt(np.mean(run(table, few)[0] ** 2)))

    tables = {
        "base": base,
        "better": found.table,
        "shuffled": shuffled(found.table),
        "subtle": worse_by(SUBTLE, base, rmse),
    }
    ran = {name: run(table, slice(0, samples)) for name, table in tables.items()}
    half = samples // 2  # the first half says what is usual, the second half is the traffic
    usual = {"base": "base", "subtle": "base", "better": "better", "shuffled": "better"}
    flags = {}
    for name, (_, norms) in ran.items():
        low, high = np.quantile(ran[usual[name]][1][:half], [0.005, 0.995], axis=0)
        flags[name] = np.asarray(((norms < low) | (norms > high)).any(1)[half:])
    return Pool({name: errors[half:] for name, (errors, _) in ran.items()}, flags)
