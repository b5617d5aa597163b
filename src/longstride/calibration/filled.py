"""A filled table made into an entry: refined a little, judged against the best classical solver, and described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.fits import Fit
from longstride.calibration.gate import EndReport, judge
from longstride.calibration.gauss_newton import GaussNewton
from longstride.calibration.reference import Reference
from longstride.calibration.residuals import RESIDUALS, Residual
from longstride.calibration.scouting import balanced, classical_starts, first_batches, ranked, strongest_first
from longstride.calibration.search import Search
from longstride.calibration.settings import GaussNewtonSettings
from longstride.calibration.unknowns import Unknowns
from longstride.card_parts import How
from longstride.table import SolverTable

__all__ = ["Filled", "finish_filled"]


@dataclass(frozen=True)
class Filled:
    """What became of a filled table.

    Attributes:
        table: The one to use: the filled one, refined or not, or the base.
        base: The best classical table.
        how: How it came about.
        search: How it went.
        end: Whole trajectories on held-out noise.
    """

    table: SolverTable
    base: SolverTable
    how: How
    search: Search
    end: EndReport


def finish_filled(
    batches: Batches,
    like: SolverTable,
    filled: SolverTable,
    settings: GaussNewtonSettings,
    *,
    reference: Reference,
    floor: float,
    refine: int,
    refine_samples: int,
    batch_size: int | None = None,
    say: Callable[[], None] = lambda: None,
) -> Filled:
    """Refine a filled table by a few steps on few samples, and let held-out noise decide.

    Args:
        batches: The samples.
        like: A classical table of as many calls between the same levels.
        filled: The filled one.
        settings: Of the fit and the gate.
        reference: Converged samples of all batches.
        floor: Least positive level.
        refine: Most steps; 0: the filled table as it is.
        refine_samples: Samples that these see; at least a batch.
        batch_size: Most samples per network call.
        say: Called after every step.
    """
    free = Unknowns(like.nfe, levels=settings.levels, column=settings.column, window=settings.window)

    def target(batch: Batch) -> Tensor:
        return reference.samples[batch.part]

    def newton(residual: Residual, samples: int) -> GaussNewton:
        return GaussNewton(
            batches,
            target,
            free,
            residual,
            robust=settings.robust,
            ridge=settings.ridge,
            batch_size=batch_size,
            fitted=first_batches(batches, samples),
        )

    candidates = {"given": like, **classical_starts(batches, like, floor)}
    plain = newton(RESIDUALS["pixels"], settings.scout_samples)
    errors = ranked(plain, candidates)
    base = strongest_first(plain, candidates, list(errors))[0]
    residual = balanced(RESIDUALS[settings.residual], batches, candidates[base], reference)
    few, start = newton(residual, refine_samples), free.prepared(filled)
    fit = few.fit(start, refine, say=say) if refine and _finite(few, start) else Fit(start, (), "not refined")
    changed = fit.table is not start
    final, end = judge(
        batches,
        candidates[base],
        replace(fit.table, name="gauss_newton"),
        reference,
        margin=settings.margin,
        stability=settings.stability,
    )
    how: How = "base" if not end.accepted else "filled and refined" if changed else "filled"
    search = Search(base, errors, {}, "filled", fit.iterations, fit.stopped)
    return Filled(final, candidates[base], how, search, end)


def _finite(newton: GaussNewton, table: SolverTable) -> bool:
    return bool(np.isfinite(newton.errors(table, [*newton.fitted, *newton.held_out])).all())
