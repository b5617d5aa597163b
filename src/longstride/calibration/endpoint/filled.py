"""A filled table made into an entry: refined a little, judged against the best classical solver, and described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from longstride.calibration.acceptance.guarding import guarded
from longstride.calibration.endpoint.fits import Fit
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.search import Fits
from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.calibration.samples import Samples
from longstride.calibration.starts.classical import classical_starts
from longstride.card_parts import How
from longstride.guard.score import Guard
from longstride.reports import EndReport, Search
from longstride.table import SolverTable

__all__ = ["Filled", "finish_filled"]


@dataclass(frozen=True)
class Filled:
    """Result of :func:`finish_filled`.

    Attributes:
        table: The table to use: the filled table, refined or not, or the base.
        base: The best classical table.
        how: Origin of the table.
        search: Course of the refinement.
        end: Errors of whole trajectories on held-out noise, and the verdict of the gate.
        guard: The guard of the table, or None.
        guard_calls: Network calls for the guard's fresh samples.
    """

    table: SolverTable
    base: SolverTable
    how: How
    search: Search
    end: EndReport
    guard: Guard | None
    guard_calls: int


def finish_filled(
    samples: Samples,
    like: SolverTable,
    filled: SolverTable,
    settings: GaussNewtonSettings,
    *,
    refine: int,
    refine_samples: int,
    say: Callable[[], None] = lambda: None,
) -> Filled:
    """Refine a filled table by a few steps on few samples, and let the gate decide.

    Args:
        samples: The samples, with their reference solution.
        like: A classical table of as many calls between the same two levels.
        filled: The filled table.
        settings: Settings of the fit and the gate.
        refine: Most steps; 0: the filled table as it is.
        refine_samples: Number of samples that the steps see, rounded up to whole units.
        say: Called after every step.
    """
    fits = Fits(samples, like.nfe, settings)
    starts, residual = fits.starts({"given": like, **classical_starts(samples, like)})
    few, start = fits.on(refine_samples, residual), fits.parameters.prepared(filled)
    fit = few.fit(start, refine, say=say) if refine and _finite(few, start) else Fit(start, (), "not refined")
    base, made = starts.tables[starts.base], replace(fit.table, name="gauss_newton")
    _, end = settings.judge(samples, base, made)
    verdict = guarded(samples, base, made, end, settings.guarding())
    final, end = verdict.table, verdict.end
    how: How = "base" if not end.accepted else "filled and refined" if fit.table is not start else "filled"
    search = Search(starts.base, dict(starts.errors), {}, "filled", fit.iterations, fit.stopped)
    return Filled(final, base, how, search, end, verdict.guard, verdict.calls)


def _finite(newton: GaussNewton, table: SolverTable) -> bool:
    return bool(np.isfinite(newton.errors(table, [*newton.fitted, *newton.held_out])).all())
