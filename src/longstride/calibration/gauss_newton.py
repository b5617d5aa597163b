r"""Endpoint Gauss–Newton: all weights of a table and its inner levels, fitted together to where samples should end.

With the last state :math:`x_K(\theta)` of a table whose free numbers (:mod:`longstride.calibration.unknowns`) are moved
by theta, the converged solution :math:`x^*` from the same noise, and a fixed feature map phi
(:mod:`longstride.calibration.residuals`),

.. math:: \min_\theta\; \mathbb E\, \rho\big(\|\varphi(x^*) - \varphi(x_K(\theta))\|^2\big)
          + \epsilon\, \|\mathrm{diag}(G)^{1/2} (\theta - \theta_0)\|^2, \qquad
          \rho(e) = 2 c^2 \big(\sqrt{1 + e / c^2} - 1\big).

Errors are heavy-tailed: a few samples switch modes, and would rule a sum of squares. Under rho, Charbonnier's loss, a
sample weighs :math:`1 / \sqrt{1 + e / c^2}`, with c² the median of e by default: what is far off counts by its
distance and no more by its square. It must count: under losses that pull the less the farther a sample is off, such as
Cauchy's, fits let single samples switch modes for a little less error of all others.

A step of Levenberg and Marquardt solves :math:`(G + \lambda\, \mathrm{diag}\, G)\, \delta = J^T r` with
:math:`G = J^T J`. Columns of J are difference quotients of roll-outs, so the network may be compiled, quantised or
somebody else's. Free numbers of state k leave the calls before it as they are, so these are made once: a step costs
about :math:`K^3 / 6` calls per sample. The last row makes no call at all: wherever a step leads, it is solved for
(:mod:`longstride.calibration.last_row`), so that steps are judged by the best that can end there. Only G and
:math:`J^T r` are kept, summed in float64 over batches and processes. When samples are added, these go on for the old
ones: after a step :math:`\delta` the same model has :math:`J^T r - G \delta`, as in an extended Kalman filter. The
trial of a step is measured on all.

Of the iterates the last is used that is within one standard error of the best before it on held-out samples.

References:
    Nocedal & Wright, Numerical Optimization, 2006, Sec. 10.3; Bertsekas, Incremental least squares methods and the
    extended Kalman filter, 1996, for samples that come in later; Charbonnier, Blanc-Féraud, Aubert & Barlaud, Two
    deterministic half-quadratic regularization algorithms for computed imaging, ICIP 1994, for rho; Breiman, Friedman,
    Olshen & Stone, Classification and regression trees, 1984, Sec. 3.4.3, for the rule of one standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.fits import FIRST_DAMPING, Fit, Iteration, Model, robust_loss, robust_mean, robust_scale
from longstride.calibration.last_row import LastRows, Terms
from longstride.calibration.normal_equations import Array, NormalEquations, double, infinite_for_nan
from longstride.calibration.reference import Errors
from longstride.calibration.residuals import Residual
from longstride.calibration.shared_runs import SharedRuns
from longstride.calibration.unknowns import Unknowns
from longstride.errors import InputError
from longstride.journal import table_digest
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["GaussNewton", "Targets"]

#: Trials of a step, each more damped than the one before, until the objective falls.
_TRIALS = 6
#: A step that gains less than this part of the objective is the last.
_LEAST_GAIN = 1e-2

#: Converged last states of a batch.
Targets = Callable[[Batch], Tensor]


class GaussNewton:
    """The fit on some batches.

    Args:
        batches: The samples.
        targets: Their converged last states.
        unknowns: The free numbers.
        residual: The feature map.
        robust: c² as a multiple of the median error; 0: plain squares.
        ridge: Epsilon; pulls towards the start, or towards ``center``.
        center: Free numbers that the ridge pulls to; default: those of the start.
        batch_size: Most samples per network call; runs of few samples make their calls together.
        fitted: Numbers of the fitted batches to use; default: all.
    """

    def __init__(
        self,
        batches: Batches,
        targets: Targets,
        unknowns: Unknowns,
        residual: Residual,
        *,
        robust: float = 1.0,
        ridge: float = 0.0,
        center: Array | None = None,
        batch_size: int | None = None,
        fitted: Sequence[int] | None = None,
    ) -> None:
        self.batches, self.targets, self.unknowns, self.residual = batches, targets, unknowns, residual
        self.robust, self.ridge, self.center, self.batch_size = robust, ridge, center, batch_size
        self.fitted = batches.numbers(held_out=False) if fitted is None else list(fitted)
        self.held_out = batches.numbers(held_out=True)

    def errors(self, table: SolverTable, numbers: Sequence[int]) -> Array:
        """Squared residual and squared error of every sample of some batches, shape ``(B, 2)``; infinite if it is.

        A table is measured once on every batch, however often it is asked for, and in whatever form; pixels are, too,
        where another table has all but the weights of the last row in common.
        """
        table = self.unknowns.prepared(table)
        if self.residual.plain:
            squared = self._last_rows(table, numbers).squared
            return np.stack([squared, squared], 1)
        found: dict[int, Array] = {}
        for batch in (b for b in self.batches.mine if b.number in numbers):

            def measure(batch: Batch = batch) -> dict[str, Array]:
                with torch.inference_mode():
                    end = Run(batch.noise, table).finish(batch.denoiser)
                return {"squared": self._squared(end, self.targets(batch))}

            name = f"errors/{self.residual.name}/{table_digest(table)[:20]}/{batch.number}"
            found[batch.number] = self.batches.part(name, measure, again=True)["squared"]
        return np.concatenate(self.batches.gather(found, list(numbers), lambda b: (b, 2)))

    def _squared(self, samples: Tensor, target: Tensor) -> Array:
        features = double(self.residual(samples) - self.residual(target)).square().sum(1)
        pixels = double(samples - target).square().flatten(1).mean(1)
        found: Array = torch.stack([features, pixels], 1).cpu().numpy()
        return infinite_for_nan(found)

    def _last_rows(self, table: SolverTable, numbers: Sequence[int]) -> LastRows:
        """What samples of some batches say of the last row of ``table``."""
        terms, found = Terms.of(table, self.unknowns), dict[int, Array]()
        weights, n = terms.weights(table), len(terms)
        for batch in (b for b in self.batches.mine if b.number in numbers):

            def measure(batch: Batch = batch) -> dict[str, Array]:
                rows = LastRows.measured(batch.denoiser, batch.noise, table, terms, self.targets(batch))
                return {"rows": rows.pack(), "weights": weights}

            seen = self.batches.part(f"ends/{terms.key(table)[:20]}/{batch.number}", measure, again=True)
            found[batch.number] = LastRows.unpack(seen["rows"], n).moved(weights - seen["weights"]).pack()
        parts = self.batches.gather(found, list(numbers), lambda b: (b, n * n + n + 1))
        return LastRows.unpack(np.concatenate(parts), n)

    def solved(self, table: SolverTable, c2: float, center: Array) -> SolverTable:
        """``table`` with the last row that is best on the fitted samples; itself where more than samples is compared.

        Args:
            table: As it is prepared.
            c2: c² of the loss.
            center: Free numbers that the ridge pulls to, shape ``(p,)``.
        """
        rows = self._last_rows(table, self.fitted) if self.residual.plain else None
        if rows is None or not np.isfinite(rows.squared).all():
            return table
        terms = Terms.of(table, self.unknowns)
        weights, free = terms.weights(table), terms.free(table, self.unknowns)
        away = weights - terms.weights(self.unknowns.with_values(table, center))
        new = weights + rows.best(c2, free, self.ridge, away)
        far = terms.too_far(weights, new)
        if far.any():  # as in every step, a first state does not change its sign, nor its weight by any factor
            new = weights + rows.best(c2, free & ~far, self.ridge, away)
        return terms.table(table, new)

    def _model(self, table: SolverTable, c2: float, known: Model | None) -> Model:
        """The model of a step from ``table``: over batches that ``known`` covers that one, moved; over others anew."""
        numbers, at = tuple(self.fitted), self.unknowns.values(table)
        new = [number for number in numbers if known is None or number not in known.numbers]
        if known is None or not new:
            return Model(self._equations(table, c2, numbers), at, numbers)
        packed = known.moved(at).pack() + self._equations(table, c2, new).pack()
        return Model(NormalEquations.unpack(packed, len(at)), at, numbers)

    def _equations(self, table: SolverTable, c2: float, numbers: Sequence[int]) -> NormalEquations:
        """Weighted normal equations of a step from ``table``, over some fitted batches."""
        p = len(self.unknowns)
        free, steps = self.unknowns.free(table), self.unknowns.steps
        found: dict[int, Array] = {}
        for batch in (b for b in self.batches.mine if b.number in numbers):

            def products(batch: Batch = batch) -> dict[str, Array]:
                runs = SharedRuns(batch.denoiser, batch.noise, table)
                moved = [self.unknowns.moved(table, steps * unit) for unit in np.eye(p)[free]]
                ends = runs.ends(moved, self.batch_size)
                here = self.residual(runs.end)
                left = self.residual(self.targets(batch)) - here
                weight = (1 + double(left).square().sum(1) / c2).pow(-0.25)[:, None].to(left)
                ends.reverse()  # popped, so that no end is held beside its quotient
                quotients = iter((self.residual(ends.pop()) - here) * (weight / h) for h in steps[free])
                zero = torch.zeros_like(left)
                equations = NormalEquations(p)
                equations.add([next(quotients) if may else zero for may in free], left * weight)
                return {"products": equations.pack()}

            name = f"jacobian/{self.residual.name}/{c2:.12e}/{table_digest(table)[:20]}/{batch.number}"
            found[batch.number] = self.batches.part(name, products)["products"]
        parts = self.batches.gather(found, list(numbers), lambda b: (p * p + p + 2,))
        return NormalEquations.unpack(np.sum(parts, axis=0), p)

    def fit(
        self,
        start: SolverTable,
        iterations: int,
        *,
        patience: int = 2,
        damping: float = FIRST_DAMPING,
        known: Model | None = None,
        most: float = float("inf"),
        say: Callable[[], None] = lambda: None,
    ) -> Fit:
        """Go from ``start`` downhill.

        Args:
            start: First table.
            iterations: Most accepted steps.
            damping: Lambda of the first step.
            known: The model of the last step of a fit on some of the batches: the first step makes it for others only.
            most: Iterates whose root-mean-square error on held-out samples is larger are not chosen while others are.
            patience: Ends after so many steps in a row that held-out samples say are worse than the best one.
            say: Called after every step.

        Raises:
            InputError: the start itself does not end in finite samples.
        """
        best = self.unknowns.prepared(start)
        here, held = self.errors(best, self.fitted), self.errors(best, self.held_out)
        if not (np.isfinite(here).all() and np.isfinite(held).all()):
            raise InputError(f"{start.name} does not end in finite samples at {start.nfe} calls: choose another start")
        c2 = self.scale(here[:, 0])
        center = self.unknowns.values(best) if self.center is None else self.center
        stopped = "all steps are taken"
        lines = [self._line(here, held, c2, damping)]
        table, worse, model = self.solved(best, c2, center), 0, known
        here = self.errors(table, self.fitted)
        best = table if self._better(table, best, c2, most) else best
        for _ in range(iterations):
            c2 = self.scale(here[:, 0])
            model, before = self._model(table, c2, known), robust_mean(here[:, 0], c2)
            known, equations = None, model.equations
            if not (np.isfinite(equations.gram).all() and np.isfinite(equations.moment).all()):
                model, stopped = None, "a step beside the table is not finite"
                break
            equations, first = equations.pulled(self.ridge, model.at - center), damping
            for _ in range(_TRIALS):
                trial = self.solved(self.unknowns.moved(table, equations.solve(damping)), c2, center)
                new = self.errors(trial, self.fitted)
                if np.isfinite(new).all() and robust_mean(new[:, 0], c2) < before:
                    break
                damping *= 8
            else:  # a further fit has another model, and starts from the damping that this one did
                stopped, damping = "no step lowers the objective", first
                break
            unseen = self.errors(trial, self.held_out)
            if not np.isfinite(unseen).all():
                stopped = "a step is not finite on held-out samples"
                break
            table, here, held = trial, new, unseen
            lines.append(self._line(here, held, c2, damping))
            damping = max(damping / 5, 1e-7)
            say()
            if self._better(table, best, c2, most):
                best, worse = table, 0
            else:
                worse += 1
            if worse >= patience:
                stopped = "held-out samples gain no more"
                break
            if lines[-1].objective > (1 - _LEAST_GAIN) * before:
                stopped = "converged"
                break
        return Fit(best, tuple(lines), stopped, damping, model)

    def _better(self, table: SolverTable, best: SolverTable, c2: float, most: float) -> bool:
        """Whether a later table is used in place of the best one so far; see :meth:`fit` for ``most``.

        Held-out samples are few, and the fit has seen more: they only stop what they are sure is worse, by more than
        one standard error of the paired difference. The scale of the loss falls with the errors: both are compared on
        one.
        """
        now, then = (self.errors(one, self.held_out) for one in (table, best))
        if not np.isfinite(now).all():
            return False
        over, was_over = (Errors.of(e[:, 1]).rmse > most for e in (now, then))
        if over != was_over:
            return was_over
        gain = robust_loss(then[:, 0], c2) - robust_loss(now[:, 0], c2)
        return bool(gain.mean() >= -gain.std() / np.sqrt(len(gain)))

    def scale(self, squared: Array) -> float:
        """c² of the loss, from squared residuals ``(B,)``; infinite for plain squares."""
        return robust_scale(squared, self.robust)

    def _line(self, here: Array, held: Array, c2: float, damping: float) -> Iteration:
        return Iteration(
            robust_mean(here[:, 0], c2),
            robust_mean(held[:, 0], c2),
            float(np.sqrt(here[:, 1].mean())),
            float(np.sqrt(held[:, 1].mean())),
            damping,
            len(here),
        )
