"""The default calibration: from the best classical solvers, by Gauss–Newton, to the table that is used.

1. Every classical solver on every grid is run on a few samples. Of the best few, the one that is best on held-out noise
   is the base: what the result must beat.
2. From the best on each of the best grids, short fits on some of the samples.
3. Where few calls make that cheap several of them go on, to twice as many samples and then to some more, else the one
   alone that stands best on held-out noise; how a short fit stands says little of where it ends. First steps go far in
   a direction that a few samples tell, so the Jacobian is made for new samples only; of earlier ones the quadratic
   model is kept.
4. The best of these whole fits (:mod:`.finals`) takes its last steps on all samples, each with a Jacobian of its own:
   near the end an old model is worth less than samples are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.finals import Final, best_final
from longstride.calibration.fits import FIRST_DAMPING, Fit, Iteration, Model
from longstride.calibration.gauss_newton import GaussNewton
from longstride.calibration.reference import Errors, Reference
from longstride.calibration.residuals import RESIDUALS, Residual
from longstride.calibration.scouting import (
    balanced,
    chosen_starts,
    classical_starts,
    first_batches,
    ranked,
    scout,
    strongest_first,
)
from longstride.calibration.settings import GaussNewtonSettings, last_steps, most_finals, whole_fit_samples
from longstride.calibration.unknowns import Unknowns
from longstride.errors import InputError
from longstride.table import SolverTable

__all__ = ["Search", "calibrate_gauss_newton", "check_starts"]


@dataclass(frozen=True)
class Search:
    """How a Gauss–Newton calibration went.

    Attributes:
        base: Name of the best classical start, ``solver@grid``, or ``"given"``.
        classical: Root-mean-square error of every start on the scouting samples, best first by the robust mean.
        scouts: Robust objective on held-out samples after each short fit, by its start.
        start: Where the fit that is used started.
        iterations: The start, and its steps; each says how many samples it saw.
        stopped: Why it ended.
        finals: How whole fits stand before the last steps, by their start; empty for one alone.
    """

    base: str
    classical: Mapping[str, float]
    scouts: Mapping[str, float]
    start: str
    iterations: tuple[Iteration, ...]
    stopped: str
    finals: Mapping[str, Final] = field(default_factory=dict)


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

    def newton(fitted: Sequence[int], residual: Residual) -> GaussNewton:
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

    count = most_finals(table.nfe, batches.fitted, batches.samples - batches.fitted, settings)
    sizes, last = whole_fit_samples(batches.fitted, settings), last_steps(batches.fitted, settings)
    short = settings.scout_iterations if settings.scouts > 1 else 0
    done, total = 0, settings.scouts * short + len(sizes) * count + last

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
    found = scout(newton(few, residual), candidates, chosen, base, foreign, short, step)
    # The gate would refuse what single samples make worse than the base: of the last iterates, one that is not so is
    # taken before one that is.
    bound = (1 + settings.margin) * Errors.of(plain.errors(candidates[found.base], plain.held_out)[:, 1]).rmse

    def further(fit: Fit, samples: int, steps: int, known: Model | None, most: float) -> Fit:
        """What a fit becomes by further steps on so many samples; its iterations are those before, too."""
        # What an old model needed damping for, a new one need not.
        damping = min(fit.damping, FIRST_DAMPING) if known is None else fit.damping
        new = newton(first_batches(batches, samples), residual).fit(
            fit.table, steps, damping=damping, known=known, most=most, say=step
        )
        return replace(new, iterations=(*fit.iterations, *new.iterations[1 if fit.iterations else 0 :]))

    def whole(fit: Fit) -> Fit:
        fit = replace(fit, iterations=())
        for samples in sizes:
            most = bound if samples == sizes[-1] else float("inf")
            fit = further(fit, samples, 1, fit.model, most)
        return fit

    fits: dict[str, Fit] = {}
    going_on = list(found.fits)[:count]
    for start in going_on:
        try:
            fits[start] = whole(found.fits[start])
        except InputError:  # it is finite on the samples of short fits, but not on those of whole fits
            if start == going_on[-1] and not fits:
                raise
    while True:
        tables = {key: fit.table for key, fit in fits.items()}
        start, finals = best_final(batches, tables, reference, floor=floor, most=bound)
        try:
            fit = fits.pop(start)
            fit = further(fit, batches.fitted, last, None, bound) if last else fit
            break
        except InputError:  # it is finite on the samples of whole fits, but not on all
            if not fits:
                raise
    search = Search(found.base, errors, found.objectives, start, fit.iterations, fit.stopped, finals)
    return replace(fit.table, name=name), candidates[found.base], search


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
