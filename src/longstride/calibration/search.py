"""The default calibration: from the best classical solvers, by Gauss–Newton, to the table that is used.

1. Every classical solver on every grid is run on a few samples. Of the best few, the one that is best on held-out noise
   is the base: what the result must beat.
2. From the best on each of the best grids, short fits on some of the samples.
3. The one that stands best on held-out noise is fitted on up to twice as many samples at every step, until all are in.
   First steps need no more: they go far in a direction that a few samples tell. The Jacobian is made for new samples
   only; of earlier ones the quadratic model is kept. So all steps together cost little more than one on all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.dense import FINE
from longstride.calibration.fits import Iteration
from longstride.calibration.gauss_newton import GaussNewton
from longstride.calibration.reference import Errors, Reference
from longstride.calibration.residuals import RESIDUALS, Residual
from longstride.calibration.scouting import (
    TRAJECTORIES,
    balanced,
    chosen_starts,
    classical_starts,
    first_batches,
    ranked,
    scout,
    strongest_first,
)
from longstride.calibration.unknowns import Unknowns
from longstride.errors import InputError, unknown
from longstride.table import SolverTable

__all__ = [
    "FITTED",
    "HELD_OUT",
    "GaussNewtonSettings",
    "Search",
    "calibrate_gauss_newton",
    "check_starts",
    "most_calls",
]

#: Samples that are fitted and held out where nothing else is said; more fitted ones hardly help.
FITTED, HELD_OUT = 96, 48
#: Classical solvers times grids, at most.
_MOST_STARTS = 63


@dataclass(frozen=True)
class GaussNewtonSettings:
    """Settings of the Gauss–Newton calibration.

    Attributes:
        iterations: Most steps of the fit that follows the short ones.
        scouts: How many classical solvers short fits start from; 0: the table that was passed is the only start.
        scout_iterations: Steps of a short fit.
        scout_samples: Samples that classical solvers are compared on, and that short fits see.
        levels: Whether inner levels are free.
        column: Whether the weight of the first state in every row is.
        window: Rows weigh so many of the latest outputs, and the recurrence of the base stays; None: all outputs.
        residual: What is compared, one of :data:`~longstride.calibration.residuals.RESIDUALS`.
        robust: c² of the robust loss as a multiple of the median error; 0: plain squares.
        ridge: Pull towards the start, relative to the energy of each unknown.
        margin: The root-mean-square error on held-out noise may be above the base's by this part at most, or the base
            is kept; that most samples gain must be sure besides, see :func:`~longstride.calibration.gate.judge`.
        stability: The gain may be this many times the base's at most, or the base is kept; see
            :mod:`longstride.calibration.stability`.
    """

    iterations: int = 3
    scouts: int = 3
    scout_iterations: int = 1
    scout_samples: int = 16
    levels: bool = True
    column: bool = True
    window: int | None = None
    residual: str = "pixels"
    robust: float = 1.0
    ridge: float = 1e-6
    margin: float = 0.0
    stability: float = 4.0

    def __post_init__(self) -> None:
        counts = (self.iterations, self.scout_iterations, self.scout_samples)
        if min(counts) < 1 or self.scouts < 0:
            raise InputError(f"expected at least one iteration and sample and scouts >= 0, got {self}")
        if not all(0 <= x < np.inf for x in (self.robust, self.ridge, self.margin)) or not self.stability > 0:
            raise InputError(f"expected finite robust, ridge and margin >= 0 and stability > 0, got {self}")
        if self.window is not None and self.window < 1:
            raise InputError(f"expected a window of at least 1 output, or None for all, got {self.window}")
        if self.residual not in RESIDUALS:
            raise unknown("residual", self.residual, RESIDUALS)


@dataclass(frozen=True)
class Search:
    """How a Gauss–Newton calibration went.

    Attributes:
        base: Name of the best classical start, ``solver@grid``, or ``"given"``.
        classical: Root-mean-square error of every start on the scouting samples, best first by the robust mean.
        scouts: Robust objective on held-out samples after each short fit, by its start.
        start: Where that fit started.
        iterations: The start, and its steps; each says how many samples it saw.
        stopped: Why it ended.
    """

    base: str
    classical: Mapping[str, float]
    scouts: Mapping[str, float]
    start: str
    iterations: tuple[Iteration, ...]
    stopped: str


def calibrate_gauss_newton(
    batches: Batches,
    table: SolverTable,
    settings: GaussNewtonSettings,
    name: str,
    *,
    reference: Reference,
    floor: float,
    batch_size: int | None = None,
    starts: Mapping[str, SolverTable] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, SolverTable, Search]:
    """Fit a table with the calls and ends of ``table``.

    Args:
        batches: The samples.
        table: A classical table; one of the starts.
        settings: See :class:`GaussNewtonSettings`.
        name: Name of the calibrated table.
        reference: Converged samples of all batches.
        floor: Least positive level.
        batch_size: Most samples per network call.
        starts: Further tables to start from, by name, such as those of other networks.
        progress: Called with (steps done, steps in all).

    Returns:
        The fitted table, the best classical one, and how it went.

    Raises:
        InputError: the reference is not finite, or no start is.
    """
    if not torch.isfinite(reference.samples).all():
        raise InputError(
            "the converged solution holds NaN or infinity: check the network, its schedule and its precision"
        )
    unknowns = Unknowns(table.nfe, levels=settings.levels, column=settings.column, window=settings.window)

    def target(batch: Batch) -> Tensor:
        return reference.samples[batch.part]

    def newton(fitted: Sequence[int] | None, residual: Residual) -> GaussNewton:
        return GaussNewton(
            batches,
            target,
            unknowns,
            residual,
            robust=settings.robust,
            ridge=settings.ridge,
            batch_size=batch_size,
            fitted=fitted,
        )

    done, total = 0, settings.scouts * settings.scout_iterations + settings.iterations

    def step() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress is not None:
            progress(done, total)

    few, foreign = first_batches(batches, settings.scout_samples), tuple(starts or {})
    candidates = {"given": table, **(starts or {})}
    if settings.scouts:
        classical = classical_starts(batches, table, floor)
        if any(table.distance(other) == 0 for other in classical.values()):
            del candidates["given"]  # it is one of them, and would be tried twice
        candidates |= classical
    plain = newton(few, RESIDUALS["pixels"])
    errors = ranked(plain, candidates)
    ranking = strongest_first(plain, candidates, list(errors), foreign)
    base = next((key for key in ranking if key not in foreign), ranking[0])
    residual = balanced(RESIDUALS[settings.residual], batches, candidates[base], reference)
    chosen = chosen_starts(ranking, settings.scouts) if settings.scouts else ranking[:1]
    short = settings.scout_iterations if settings.scouts > 1 else 0
    found = scout(newton(few, residual), candidates, chosen, base, foreign, short, step)
    fit, lines, stages = found.fit, list[Iteration](), _growing(batches, settings)
    # The gate would refuse what single samples make worse than the base: of the last iterates, one that is not so is
    # taken before one that is.
    bound = (1 + settings.margin) * Errors.of(plain.errors(candidates[found.base], plain.held_out)[:, 1]).rmse
    for numbers, count in stages:
        most = bound if numbers == stages[-1][0] else np.inf
        fit = newton(numbers, residual).fit(fit.table, count, damping=fit.damping, known=fit.model, most=most, say=step)
        lines += fit.iterations[1 if lines else 0 :]
    search = Search(found.base, errors, found.objectives, found.start, tuple(lines), fit.stopped)
    return replace(fit.table, name=name), candidates[found.base], search


def most_calls(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings, reference_steps: int = 64) -> int:
    """Network calls in samples that a calibration makes at most, its reference included and guidance not.

    Args:
        nfe: Network calls K of the table; a step costs about ``K³ / 6`` per sample.
        fitted: Samples that are fitted.
        held_out: Samples that decide.
        settings: Of the calibration.
        reference_steps: Steps of the converged solution.
    """
    reach = settings.window or nfe
    free = sum((min(k, reach) + settings.levels + settings.column) * (nfe - k) for k in range(1, nfe))
    few = min(settings.scout_samples, fitted)
    sizes = [0, *_growth(fitted, settings)]
    steps = sum(now - before or now for before, now in pairwise(sizes)) + (
        few * settings.scouts * settings.scout_iterations if settings.scouts > 1 else 0
    )
    # A few trials of every step, every start, the trajectories that choose levels, and the check.
    trials = (settings.iterations * fitted + settings.scouts * few + 2 * held_out * (settings.iterations + 2)) * nfe * 2
    tried = (_MOST_STARTS * few * nfe + (FINE + 1) * TRAJECTORIES) if settings.scouts else few * nfe
    return int(steps * (free + nfe)) + trials + tried + (fitted + held_out + 8) * reference_steps + 12 * held_out * nfe


def check_starts(starts: Mapping[str, SolverTable], table: SolverTable) -> None:
    """Make sure that tables to start from do what ``table`` does: as many calls between the same two levels.

    Raises:
        InputError: one does not, or has the name of a start that is made here.
    """
    for name, start in starts.items():
        if name == "given" or "@" in name:
            raise InputError(f"starts: the name {name!r} is taken (the table itself and solver@grid): choose another")
        if start.nfe != table.nfe:
            raise InputError(
                f"starts[{name!r}] makes {start.nfe} network calls, but the table makes {table.nfe}: pass starts of as "
                "many calls"
            )
        ends = [(float(one.alphas[k]), float(one.sigmas[k])) for one in (start, table) for k in (0, -1)]
        if not np.allclose(ends[:2], ends[2:], rtol=1e-6, atol=1e-9):
            (_, high), (_, low), (_, wanted), (_, least) = ends
            raise InputError(
                f"starts[{name!r}] goes from sigma {high:g} to {low:g}, but the table from {wanted:g} to {least:g}, or "
                "its alphas there differ: build it between the same two levels"
            )


def _growth(fitted: int, settings: GaussNewtonSettings) -> list[int]:
    """Samples of every step: all at the last, half as many at every one before, but twice the scouts' at least."""
    halves = [-(-fitted // 2**n) for n in reversed(range(settings.iterations))]
    return [min(fitted, max(half, 2 * settings.scout_samples)) for half in halves]


def _growing(batches: Batches, settings: GaussNewtonSettings) -> list[tuple[list[int], int]]:
    """Batches to fit, and for how many steps."""
    stages: list[tuple[list[int], int]] = []
    for count in _growth(batches.fitted, settings):
        numbers = first_batches(batches, count)
        if stages and stages[-1][0] == numbers:
            stages[-1] = (numbers, stages[-1][1] + 1)
        else:
            stages.append((numbers, 1))
    return stages
