"""Where a Gauss–Newton fit starts: classical solvers on a few samples, and short fits from the best of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.dense import FINE, solve_dense
from longstride.calibration.fits import Fit, robust_mean, robust_scale
from longstride.calibration.gauss_newton import GaussNewton
from longstride.calibration.levels import best_levels, step_costs
from longstride.calibration.normal_equations import Array
from longstride.calibration.reference import Reference, refine, select
from longstride.calibration.residuals import Residual
from longstride.calibration.starts import DISCOUNTS, classical_tables
from longstride.errors import InputError
from longstride.sampler import sample
from longstride.table import SolverTable

__all__ = [
    "TRAJECTORIES",
    "Scouted",
    "balanced",
    "chosen_starts",
    "classical_starts",
    "first_batches",
    "ranked",
    "scout",
    "strongest_first",
]

#: How many of the best classical tables are compared on held-out samples.
_STRONG = 4
#: A fit from elsewhere goes on in place of the base's own only where its objective is less than this part of that
#: one's. Short fits on a few samples scatter by about as much; and what starts at the base seldom makes a sample worse
#: that the base is good at, which the gate asks for.
_AHEAD = 0.85
#: Samples whose converged trajectories choose the levels of grids by dynamic programming, and whose errors balance the
#: parts of a residual.
TRAJECTORIES = 16


@dataclass(frozen=True)
class Scouted:
    """Where whole fits start.

    Attributes:
        fits: Short fits by their start, in the order in which they go on.
        base: Name of the classical table that the result must beat.
        objectives: Robust objective on held-out samples after each short fit, by its start.
    """

    fits: Mapping[str, Fit]
    base: str
    objectives: Mapping[str, float]


def scout(
    newton: GaussNewton,
    candidates: Mapping[str, SolverTable],
    chosen: Sequence[str],
    base: str,
    foreign: Sequence[str],
    iterations: int,
    say: Callable[[], None],
) -> Scouted:
    """Short fits from some tables, best on held-out samples first; the base's own before those that tie with it.

    Args:
        newton: The fit on a few samples.
        candidates: All tables by name.
        chosen: Names of those to start from, best first.
        base: Name of the best classical one.
        foreign: Names of those that are no classical ones.
        iterations: Steps of every short fit; 0: the tables as they are.
        say: Called after every step.

    Raises:
        InputError: none of them is finite on the held-out samples.
    """
    fits: dict[str, Fit] = {}
    for key in chosen:
        try:
            fits[key] = (
                newton.fit(candidates[key], iterations, say=say)
                if iterations
                else Fit(newton.unknowns.prepared(candidates[key]), (), "")
            )
        except InputError:  # it is finite on the scouting samples, but not on the held-out ones
            if key == chosen[-1] and not fits:
                raise
    if base in chosen and base not in fits:
        base = next((key for key in fits if key not in foreign), next(iter(fits)))
    held = {key: newton.errors(fit.table, newton.held_out)[:, 0] for key, fit in fits.items()}
    scale = min(newton.scale(errors) for errors in held.values())
    objectives = {key: robust_mean(errors, scale) for key, errors in held.items()}
    order = sorted(objectives, key=lambda key: objectives[key] * (_AHEAD if key == base else 1))
    finite = {key: value for key, value in objectives.items() if np.isfinite(value)}
    return Scouted({key: fits[key] for key in order}, base, finite)


def balanced(residual: Residual, batches: Batches, base: SolverTable, reference: Reference) -> Residual:
    """The residual with its parts in balance where ``base`` ends, on a few samples; every process finds the same."""
    if residual.beside is None:
        return residual
    few = slice(0, min(TRAJECTORIES, batches.fitted))

    def find() -> dict[str, Array]:
        ends = sample(select(batches.denoiser, few), batches.noise[few], base)
        return {"scale": np.array(residual.balanced(ends, reference.samples[few]).scale)}

    return replace(residual, scale=float(batches.part(f"balance/{residual.name}", find, everywhere=True)["scale"]))


def classical_starts(batches: Batches, table: SolverTable, floor: float) -> dict[str, SolverTable]:
    """Every classical solver on every grid between the ends of ``table``, by ``solver@grid``; see ``starts``."""
    schedule = getattr(batches.denoiser, "schedule", None)
    return classical_tables(table, schedule, floor, _own_levels(batches, table, floor))


def ranked(newton: GaussNewton, candidates: Mapping[str, SolverTable]) -> dict[str, float]:
    """Root-mean-square errors of tables on the fitted samples, best first; those that overflow are left out.

    Raises:
        InputError: all do.
    """
    squared = _squared(newton, candidates, newton.fitted)
    if not squared:
        raise InputError("no classical solver ends in finite samples on this network: check its schedule and precision")
    return {key: float(np.sqrt(found.mean())) for key, found in squared.items()}


def strongest_first(
    newton: GaussNewton, candidates: Mapping[str, SolverTable], ranking: Sequence[str], foreign: Sequence[str] = ()
) -> list[str]:
    """The ranking with its best few classical tables in the order in which they stand on the held-out samples.

    The first of them is what a result must beat: the same samples decide on the result, so that it is never compared
    with one that a few samples ranked first by chance. And no fit starts from such a one.

    Args:
        newton: The fit on a few samples.
        candidates: All tables by name.
        ranking: Names, best on the few samples first.
        foreign: Names of those that are no classical ones.
    """
    few = [key for key in ranking if key not in foreign][:_STRONG]
    finite = _squared(newton, {key: candidates[key] for key in few}, newton.held_out)
    order = iter([*finite, *(key for key in few if key not in finite)])
    return [next(order) if key in few else key for key in ranking]


def _squared(newton: GaussNewton, candidates: Mapping[str, SolverTable], numbers: Sequence[int]) -> dict[str, Array]:
    """Squared errors of tables on the samples of some batches, best table first; those that overflow are left out."""
    squared = {key: newton.errors(one, numbers)[:, 1] for key, one in candidates.items()}
    squared = {key: found for key, found in squared.items() if np.isfinite(found).all()}
    # By the robust mean: a root mean square would be ruled by the few samples that switch modes, here too.
    common = min((robust_scale(found) for found in squared.values()), default=0.0)
    return dict(sorted(squared.items(), key=lambda item: robust_mean(item[1], common)))


def first_batches(batches: Batches, samples: int) -> list[int]:
    """Numbers of the first fitted batches that hold so many samples, or of all."""
    found: list[int] = []
    count = 0
    for number in batches.numbers(held_out=False):
        if count >= samples:
            break
        found.append(number)
        count += batches.slices[number].stop - batches.slices[number].start
    return found


def chosen_starts(ranking: Sequence[str], count: int) -> list[str]:
    """The best start, and the best on each of the next best other grids.

    How good a start is says little of where a fit from it ends. Weights find their best for the levels that they are
    given, from any solver's; levels do not move far, so that starts on one grid mostly end in one place.

    Args:
        ranking: Names ``solver@grid``, best first; others are a grid of their own.
        count: How many to choose.
    """
    by_grid: dict[str, str] = {}
    for key in ranking:
        by_grid.setdefault(key.partition("@")[2] or key, key)
    return list(by_grid.values())[:count]


def _own_levels(batches: Batches, table: SolverTable, floor: float) -> Mapping[str, Array]:
    """Levels of the grids by dynamic programming, from converged trajectories of a few samples; see ``levels``."""
    numbers, found = first_batches(batches, TRAJECTORIES), dict[int, Array]()
    sigmas = refine(table, 0, table.nfe, FINE, floor).sigmas
    for batch in (b for b in batches.mine if b.number in numbers):
        few = slice(0, TRAJECTORIES - batch.part.start)

        def find(batch: Batch = batch, few: slice = few) -> dict[str, Array]:
            denoiser, noise = select(batch.denoiser, few), batch.noise[few]
            return {"cost": step_costs(solve_dense(denoiser, noise, table, steps=FINE, sigma_floor=floor))}

        found[batch.number] = batches.part(f"levels/{batch.number}", find)["cost"]
    cost = np.sum(batches.gather(found, numbers, lambda b: (len(sigmas), len(sigmas))), axis=0)
    return {name: best_levels(sigmas, cost, table.nfe, discount) for name, discount in DISCOUNTS.items()}
