"""The default calibration: by Gauss–Newton from the best classical and universal tables to the calibrated table.

1. Every classical solver on every grid, and universal tables at a few scales, run on a few samples. Held-out
   samples choose the base among the best few tables: the result must beat the base, and is the base if it does not.
2. Short fits start from the best table on each of the best grids; universal tables count as one grid. Short fits see a
   few samples.
3. Whole fits go on from short fits, on more samples: from the best short fit on held-out samples, and from further
   short fits if few network calls make that cheap. If universal tables are among the starts, the second whole fit is of
   the other kind. The error of a short fit says little of the error of its whole fit.
   First steps go far, in directions that a few samples tell. So a step makes the Jacobian for new samples alone, and
   keeps the quadratic model of earlier samples.
4. The best whole fit (:mod:`~longstride.calibration.endpoint.select`) takes its last steps on all samples, each with a
   Jacobian of its own: near the end an old model is worth less than new samples.
5. With a guard, further steps see hard samples, too (:mod:`~longstride.calibration.endpoint.taught`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from longstride.arrays import Array
from longstride.calibration.endpoint.cost import last_steps, most_whole_fits, whole_fit_samples
from longstride.calibration.endpoint.fits import FIRST_DAMPING, Fit, Quadratic
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.prior import Prior
from longstride.calibration.endpoint.residuals import Residual, balanced
from longstride.calibration.endpoint.select import best_whole_fit
from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.calibration.endpoint.short_fits import ShortFits, Starts, chosen_starts, ranked, short_fits
from longstride.calibration.endpoint.taught import TAUGHT, taught
from longstride.calibration.loss import relative_scales
from longstride.calibration.samples import Samples
from longstride.calibration.starts.classical import classical_starts
from longstride.calibration.starts.universal import is_universal, universal_starts
from longstride.errors import InputError
from longstride.reports import Errors, Search, WholeFit
from longstride.table import SolverTable

__all__ = ["Fits", "calibrate_gauss_newton", "check_starts"]


class Fits:
    """Gauss–Newton fits of one calibration, on few or many of its samples.

    Args:
        samples: All samples, with their reference solution.
        nfe: Network calls K of the tables.
        settings: Settings of the calibration.
    """

    def __init__(self, samples: Samples, nfe: int, settings: GaussNewtonSettings) -> None:
        self.samples, self.settings = samples, settings
        self.parameters = settings.parameters(nfe)
        self.scales: Array | None = None

    @property
    def robust(self) -> float:
        """c² of the loss as a multiple of the median error."""
        return self.settings.robust if self.scales is None else self.settings.guard_robust

    def on(self, samples: int, residual: Residual) -> GaussNewton:
        """The fit on the first ``samples`` fitted samples, in whole units."""
        return GaussNewton(
            self.samples,
            self.parameters,
            residual,
            robust=self.robust,
            ridge=self.settings.ridge,
            rank=self.settings.rank,
            trials=self.settings.trials,
            fitted=self.samples.units.first(samples),
            scales=self.scales,
        )

    def prior(self, table: SolverTable) -> Prior | None:
        """What is known beforehand of fits from a table."""
        return Prior.of(table, self.parameters, self.settings.prior)

    def starts(self, tables: Mapping[str, SolverTable], foreign: Sequence[str] = ()) -> tuple[Starts, Residual]:
        """Tables ranked on a few samples, and the residual in balance at the base.

        Args:
            tables: Tables by name.
            foreign: Names of the tables that were passed.
        """
        plain = self.on(self.settings.scout_samples, Residual())
        found = ranked(plain, tables, foreign)
        if self.settings.guard_share and self.settings.guard_floor is not None:
            squared = plain.errors(found.tables[found.base], self.samples.units.all)[:, 1]
            self.scales = relative_scales(squared, self.settings.guard_floor)
        return found, balanced(self.settings.residual, self.samples, found.tables[found.base])

    def before(self, base: SolverTable) -> Array | None:
        """Squared errors of ``base`` on held-out samples, shape ``(B,)``, which the gate compares with those of a fit.

        None with a guard: the base makes samples again that a fit does badly, and the guard is judged on more samples.
        """
        if self.settings.guard_share:
            return None
        plain = self.on(self.settings.scout_samples, Residual())
        return plain.errors(base, plain.held_out)[:, 1]


def calibrate_gauss_newton(
    samples: Samples,
    table: SolverTable,
    settings: GaussNewtonSettings,
    name: str,
    *,
    starts: Mapping[str, SolverTable] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, SolverTable, Search]:
    """Fit a table with the calls and ends of ``table``.

    Args:
        samples: The samples, with their reference solution.
        table: A classical table; it is one of the starts.
        settings: See :class:`GaussNewtonSettings`.
        name: Name of the calibrated table.
        starts: Further tables to start from, by name, such as tables of other networks.
        progress: Called with (steps done, steps in all).

    Returns:
        The fitted table, the base, and the course of the calibration.

    Raises:
        InputError: the reference solution holds NaN or infinity, or no start ends in finite samples.
    """
    assert samples.reference is not None
    if not torch.isfinite(samples.reference.samples).all():
        raise InputError(
            "the reference solution holds NaN or infinity: check the network, its schedule and its precision"
        )
    tables = _candidates(samples, table, settings, starts or {})
    some = replace(settings, universal=any(map(is_universal, tables)))
    count = most_whole_fits(table.nfe, samples.fitted, samples.held_out, some)
    step = _steps(count, samples.fitted, settings, progress)
    fits = Fits(samples, table.nfe, settings)
    found, residual = fits.starts(tables, tuple(starts or {}))
    chosen = chosen_starts(found.ranking, settings.scouts) if settings.scouts else found.ranking[:1]
    newton = fits.on(settings.scout_samples, residual)
    short = short_fits(newton, found, chosen, _short_steps(settings), step, prior=fits.prior)
    base = found.tables[short.base]
    whole = _WholeFits(fits, residual, fits.before(base), step)
    start, fit, finals = whole.best(short, count)
    if many := settings.guarding().pool(len(samples)):
        fit = taught(
            samples,
            fits.parameters,
            residual,
            base,
            fit,
            count=many,
            part=settings.guard_hard,
            robust=fits.robust,
            ridge=settings.ridge,
            rank=settings.rank,
            floor=settings.guard_floor,
            say=step,
        )
    search = Search(short.base, dict(found.errors), dict(short.objectives), start, fit.iterations, fit.stopped, finals)
    return replace(fit.table, name=name), base, search


def _short_steps(settings: GaussNewtonSettings) -> int:
    """Steps of a short fit; 0 if there is only one start."""
    return settings.scout_iterations if settings.scouts > 1 else 0


def _steps(
    count: int, fitted: int, settings: GaussNewtonSettings, progress: Callable[[int, int], None] | None
) -> Callable[[], None]:
    """A function that is called after every step, and tells how many are done.

    Args:
        count: Number of whole fits.
        fitted: Number of fitted samples.
        settings: Settings of the calibration.
        progress: Called with (steps done, steps in all).
    """
    whole, done = len(whole_fit_samples(fitted, settings)), 0
    total = settings.scouts * _short_steps(settings) + whole * count + last_steps(fitted, settings)
    total += TAUGHT if settings.guarding().pool(fitted) else 0

    def step() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress is not None:
            progress(done, total)

    return step


def _candidates(
    samples: Samples, table: SolverTable, settings: GaussNewtonSettings, starts: Mapping[str, SolverTable]
) -> dict[str, SolverTable]:
    """All tables that fits may start from, by name."""
    found = {"given": table, **starts}
    if settings.scouts:
        classical = classical_starts(samples, table)
        if any(table.distance(other) == 0 for other in classical.values()):
            del found["given"]  # the given table is a classical start, and would be tried twice
        found |= classical
    if settings.tries_universal:
        found |= universal_starts(samples, table)
    return found


class _WholeFits:
    """Whole fits, and the last steps of the best.

    Args:
        fits: The fits of the calibration.
        residual: The feature map.
        before: Squared errors of the base; see :meth:`Fits.before`.
        step: Called after every step.
    """

    def __init__(self, fits: Fits, residual: Residual, before: Array | None, step: Callable[[], None]) -> None:
        self.fits, self.residual, self.before, self.step = fits, residual, before, step
        # The gate accepts no larger root-mean-square error. A few samples can raise this error while the mean loss
        # falls. Last steps prefer tables within the bound.
        self.bound = float("inf") if before is None else (1 + fits.settings.margin) * Errors.of(before).rmse
        self.sizes = whole_fit_samples(fits.samples.fitted, fits.settings)

    def best(self, short: ShortFits, count: int) -> tuple[str, Fit, dict[str, WholeFit]]:
        """The start of the best whole fit, that fit after its last steps, and the errors of all whole fits.

        Args:
            short: The short fits.
            count: How many short fits go on.
        """
        fits = self._whole(short, list(short.fits)[:count])
        samples, last = self.fits.samples, last_steps(self.fits.samples.fitted, self.fits.settings)
        while True:
            tables = {key: fit.table for key, fit in fits.items()}
            asked = self.fits.settings
            start, finals = best_whole_fit(
                samples, tables, before=self.before, margin=asked.margin, confidence=asked.confidence
            )
            try:
                fit = fits.pop(start)
                return start, self._further(fit, samples.fitted, last, None, self.bound) if last else fit, finals
            except InputError:  # the fit is finite on the samples of whole fits, but not on all samples
                if not fits:
                    raise

    def _whole(self, short: ShortFits, starts: Sequence[str]) -> dict[str, Fit]:
        """Whole fits by their start."""
        fits: dict[str, Fit] = {}
        for start in starts:
            try:
                fit = replace(short.fits[start], iterations=())
                for samples in self.sizes:
                    most = self.bound if samples == self.sizes[-1] else float("inf")
                    fit = self._further(fit, samples, 1, fit.model, most)
                fits[start] = fit
            except InputError:  # the fit is finite on the samples of short fits, but not on the samples of whole fits
                if start == starts[-1] and not fits:
                    raise
        return fits

    def _further(self, fit: Fit, samples: int, steps: int, known: Quadratic | None, most: float) -> Fit:
        """A fit after further steps on so many samples; the iterations before are included."""
        # A new model may need less damping than the old model did.
        damping = min(fit.damping, FIRST_DAMPING) if known is None else fit.damping
        newton = self.fits.on(samples, self.residual)
        new = newton.fit(fit.table, steps, damping=damping, known=known, prior=fit.prior, most=most, say=self.step)
        return replace(new, iterations=(*fit.iterations, *new.iterations[1 if fit.iterations else 0 :]))


def check_starts(starts: Mapping[str, SolverTable], table: SolverTable) -> None:
    """Make sure that starts make as many calls as ``table``, between the same two levels.

    Raises:
        InputError: a start with other calls or levels, or with the name of a start that a calibration makes itself.
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
