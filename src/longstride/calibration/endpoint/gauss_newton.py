r"""Endpoint Gauss–Newton: all weights of a table and its inner levels, fitted together to the reference solution.

Theta moves the free numbers (:mod:`longstride.parameters`) of a table with last state :math:`x_K(\theta)`. With the
reference solution :math:`x^*` from the same noise, and a feature map phi
(:mod:`longstride.calibration.endpoint.residuals`), a fit solves

.. math:: \min_\theta\; \mathbb E\, \rho\big(\|\varphi(x^*) - \varphi(x_K(\theta))\|^2\big)
          + \epsilon\, \|\mathrm{diag}(G)^{1/2} (\theta - \theta_0)\|^2, \qquad
          \rho(e) = 2 c^2 \big(\sqrt{1 + e / c^2} - 1\big).

Errors are heavy-tailed: a few samples switch modes, and would rule a sum of squares. Under rho, Charbonnier's loss, a
sample has the weight :math:`1 / \sqrt{1 + e / c^2}`; c² is the median of e by default. Cauchy's loss, whose pull falls
with the distance, does worse: fits under it let single samples switch modes.

A fit from a universal table has :mod:`~longstride.calibration.endpoint.prior` in place of the last term.

A step of Levenberg and Marquardt solves

.. math:: (G + \lambda\, \mathrm{diag}\, G)\, \delta = J^T r, \qquad G = J^T J.

- Columns of J are difference quotients of roll-outs, so that the network may be compiled or quantised.
- The network calls before state k do not depend on the free numbers of state k, and are made once. A step costs about
  :math:`K^3 / 6` network calls per sample.
- The last row makes no network call. Every trial of a step solves for its best last row
  (:mod:`longstride.calibration.endpoint.last_row`) if pixels alone are compared.
- G and :math:`J^T r` alone are kept, summed in float64 over units and processes.
- A fit on more samples keeps the model of the earlier samples. After a step :math:`\delta` this model has
  :math:`J^T r - G \delta`, as in an extended Kalman filter. New samples get a Jacobian. Trials are measured on all.

A fit returns its last iterate that is within one standard error of the best iterate before it, on held-out samples.

References:
    Nocedal & Wright, Numerical Optimization, 2006, Sec. 10.3; Bertsekas, Incremental least squares methods and the
    extended Kalman filter, 1996, for samples that come in later; Charbonnier, Blanc-Féraud, Aubert & Barlaud, Two
    deterministic half-quadratic regularization algorithms for computed imaging, ICIP 1994, for rho; Breiman, Friedman,
    Olshen & Stone, Classification and regression trees, 1984, Sec. 3.4.3, for the rule of one standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from longstride.arrays import Array
from longstride.calibration.endpoint.fits import FIRST_DAMPING, Fit, Quadratic
from longstride.calibration.endpoint.last_row import Terms
from longstride.calibration.endpoint.low_rank import LowRank
from longstride.calibration.endpoint.measurements import Measurements
from longstride.calibration.endpoint.prior import Prior, Ridge
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.samples import Samples
from longstride.errors import InputError
from longstride.parameters import Parameters
from longstride.reports import Errors, Iteration
from longstride.table import SolverTable

__all__ = ["TRIALS", "GaussNewton"]

#: Default number of trials of a step, each more damped than the one before, until the objective falls.
TRIALS = 6
#: A step that gains less than this part of the objective is the last.
_LEAST_GAIN = 1e-2


class GaussNewton(Measurements):
    """The fit on some samples.

    Args:
        samples: All samples, with their reference solution.
        parameters: The free numbers.
        residual: The feature map.
        robust: c² as a multiple of the median error; 0: plain squares.
        ridge: Epsilon, the pull towards the start, in fits without a prior.
        trials: Most trials of a step.
        fitted: Numbers of the fitted units to use; default: all fitted units.
        watched: Numbers of the units that choose among iterates; default: the held-out units. With the fitted units
            themselves, the held-out samples stay unseen for a later comparison.
        scales: See :class:`Measurements`.
        weights: See :class:`Measurements`.
    """

    def __init__(
        self,
        samples: Samples,
        parameters: Parameters,
        residual: Residual,
        *,
        robust: float = 1.0,
        ridge: float = 0.0,
        rank: int | None = None,
        trials: int = TRIALS,
        fitted: Sequence[int] | None = None,
        watched: Sequence[int] | None = None,
        scales: Array | None = None,
        weights: Array | None = None,
    ) -> None:
        super().__init__(samples, parameters, residual, scales, weights)
        self.robust, self.ridge, self.rank, self.trials = robust, ridge, rank, trials
        self.fitted = samples.units.fitted if fitted is None else list(fitted)
        self.held_out = samples.units.held_out if watched is None else list(watched)
        self._shares = None if weights is None else samples.of_units(weights, self.fitted)

    def solved(self, table: SolverTable, loss: Loss, toward: Prior | Ridge) -> SolverTable:
        """``table`` with its best last row on the fitted samples.

        ``table`` itself is returned if features are compared, too, or if an error is not finite.

        Args:
            table: A table as :meth:`Parameters.prepared` returns it.
            loss: The loss.
            toward: What pulls.
        """
        rows = self.last_rows(table, self.fitted).over(self.scales_of(self.fitted)) if self.residual.plain else None
        if rows is None or not np.isfinite(rows.squared).all():
            return table
        terms = Terms.of(table, self.parameters)
        weights, free = terms.weights(table), terms.free(table, self.parameters)
        noise = float(np.average(loss.weight(rows.squared) * rows.squared, weights=self._shares))
        pull = toward.on_last_row(table, terms, self.parameters, noise)
        new = weights + rows.best(loss, free, pull, self._shares)
        far = terms.too_far(weights, new)
        if far.any():  # as in every step, a weight of a state keeps its sign and changes by a bounded factor
            new = weights + rows.best(loss, free & ~far, pull, self._shares)
        return terms.table(table, new)

    def quadratic(
        self, table: SolverTable, loss: Loss, known: Quadratic | None, few: LowRank | None = None
    ) -> Quadratic:
        """The model of a step from ``table``; ``few`` as in :meth:`equations`.

        Units of ``known`` keep its equations, moved to ``table``; other units get new equations. If there are no other
        units, all equations are new.
        """
        numbers, at = tuple(self.fitted), self.parameters.values(table)
        new = [number for number in numbers if known is None or number not in known.numbers]
        if known is None or not new:
            return Quadratic(self.equations(table, loss, numbers, few), at, numbers)
        packed = known.moved(at).pack() + self.equations(table, loss, new, few).pack()
        return Quadratic(NormalEquations.unpack(packed, len(at)), at, numbers)

    def fit(
        self,
        start: SolverTable,
        iterations: int,
        *,
        patience: int = 2,
        damping: float = FIRST_DAMPING,
        known: Quadratic | None = None,
        prior: Prior | None = None,
        most: float = float("inf"),
        say: Callable[[], None] = lambda: None,
    ) -> Fit:
        """Fit a table.

        Args:
            start: First table.
            iterations: Most accepted steps.
            patience: The fit ends after so many steps in a row without a better iterate (:meth:`better`).
            damping: Lambda of the first step.
            known: Model of an earlier fit on some of the units; the first step goes on with it (:meth:`quadratic`).
            prior: What is known beforehand of the free numbers; it takes the place of the ridge.
            most: Bound on the root-mean-square error on held-out samples; see :meth:`better`.
            say: Called after every accepted step.

        Raises:
            InputError: the start does not end in finite samples.
        """
        best = self.parameters.prepared(start)
        here, held = self.errors(best, self.fitted), self.errors(best, self.held_out)
        if not (np.isfinite(here).all() and np.isfinite(held).all()):
            raise InputError(f"{start.name} does not end in finite samples at {start.nfe} calls: choose another start")
        loss = self._loss(here)
        toward, stopped = prior or Ridge.of(best, self.parameters, self.ridge), "all steps are taken"
        few = None if self.rank is None else LowRank(self.rank, toward.spread)
        lines = [self._line(here, held, loss, damping)]
        table, worse, model = self.solved(best, loss, toward), 0, known
        here = self.errors(table, self.fitted)
        best = table if self.better(table, best, loss, most) else best
        for _ in range(iterations):
            loss = self._loss(here)
            model, before = self.quadratic(table, loss, known, few), self._mean(loss, here)
            known, equations = None, model.equations
            if not (np.isfinite(equations.gram).all() and np.isfinite(equations.moment).all()):
                model, stopped = None, "a step beside the table is not finite"
                break
            found = self._step(table, loss, toward, model, damping, before)
            if found is None:  # a further fit has another model: damping stays that of the last accepted step
                stopped = "no step lowers the objective"
                break
            trial, new, damping = found
            unseen = self.errors(trial, self.held_out)
            if not np.isfinite(unseen).all():
                stopped = "a step is not finite on held-out samples"
                break
            table, here = trial, new
            lines.append(self._line(here, unseen, loss, damping))
            damping = max(damping / 5, 1e-7)
            say()
            better = self.better(table, best, loss, most)
            best, worse = (table, 0) if better else (best, worse + 1)
            if worse >= patience:
                stopped = "held-out samples gain no more"
                break
            if lines[-1].objective > (1 - _LEAST_GAIN) * before:
                stopped = "converged"
                break
        return Fit(best, tuple(lines), stopped, damping, model, prior)

    def _step(
        self,
        table: SolverTable,
        loss: Loss,
        toward: Prior | Ridge,
        model: Quadratic,
        damping: float,
        before: float,
    ) -> tuple[SolverTable, Array, float] | None:
        """A table with an objective below ``before``, its errors and the damping of its step; None if trials fail."""
        samples = float(self.samples.of_units(self.weights, model.numbers).sum())
        equations = model.equations.pulled(toward.on(model.at, max(model.equations.energy, 0.0) / samples))
        for _ in range(self.trials):
            trial = self.solved(self.parameters.moved(table, equations.solve(damping)), loss, toward)
            new = self.errors(trial, self.fitted)
            if np.isfinite(new).all() and self._mean(loss, new) < before:
                return trial, new, damping
            damping *= 8
        return None

    def better(self, table: SolverTable, best: SolverTable, loss: Loss, most: float) -> bool:
        r"""Whether the later ``table`` takes the place of ``best``, by held-out samples.

        A table whose root-mean-square error is at most ``most`` takes the place of a table above that bound, and never
        the reverse. Otherwise the losses :math:`\rho_n` of ``table`` and :math:`\rho'_n` of ``best`` decide:

        .. math:: \overline{\rho' - \rho} \ge -s(\rho' - \rho) / \sqrt B.

        The held-out samples are few, so that a difference within one standard error does not count.
        """
        now, then = (self.errors(one, self.held_out) for one in (table, best))
        if not np.isfinite(now).all():
            return False
        over, was_over = (Errors.of(e[:, 1]).rmse > most for e in (now, then))
        if over != was_over:
            return was_over
        gain = loss.value(then[:, 0]) - loss.value(now[:, 0])
        return bool(gain.mean() >= -gain.std() / np.sqrt(len(gain)))

    def _loss(self, here: Array) -> Loss:
        """The loss for errors ``(B, 2)`` of the fitted samples."""
        return Loss.of(here[:, 0], self.robust, self._shares)

    def _mean(self, loss: Loss, here: Array) -> float:
        """The objective, for errors ``(B, 2)`` of the fitted samples."""
        return loss.mean(here[:, 0], self._shares)

    def _line(self, here: Array, held: Array, loss: Loss, damping: float) -> Iteration:
        now, then = np.average(here[:, 1], weights=self._shares), held[:, 1].mean()
        rmse, rmse_held = float(np.sqrt(now)), float(np.sqrt(then))
        return Iteration(self._mean(loss, here), loss.mean(held[:, 0]), rmse, rmse_held, damping, len(here))
