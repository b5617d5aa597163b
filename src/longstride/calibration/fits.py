"""What a Gauss–Newton fit gives, step by step, and the robust loss that its steps are compared on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.calibration.normal_equations import Array, NormalEquations
from longstride.table import SolverTable

__all__ = ["FIRST_DAMPING", "Fit", "Iteration", "Model", "robust_loss", "robust_mean", "robust_scale"]

#: Damping of a first step. A tenth of it would take the step a little farther, into directions that hardly matter for
#: the error, and tables for neighbouring numbers of calls would differ so much that none between them could be filled.
FIRST_DAMPING = 1e-3


@dataclass(frozen=True)
class Iteration:
    """One accepted step.

    Attributes:
        objective: Robust mean over the fitted samples.
        held_out: The same over the held-out samples, with the same c².
        rmse: Root-mean-square error of the fitted samples, in pixels or latents.
        held_out_rmse: Of the held-out ones.
        damping: Lambda of the step.
        samples: How many fitted samples there are.
    """

    objective: float
    held_out: float
    rmse: float
    held_out_rmse: float
    damping: float
    samples: int


@dataclass(frozen=True)
class Model:
    """The quadratic model of the objective that a step was taken on; a fit on more samples need not make it again.

    Attributes:
        equations: Normal equations over some batches.
        at: Free numbers of the table that the residuals belong to.
        numbers: The batches.
    """

    equations: NormalEquations
    at: Array
    numbers: tuple[int, ...]

    def moved(self, values: Array) -> NormalEquations:
        """The equations of a table with other free numbers, as far as residuals are linear in them."""
        return self.equations.moved(values - self.at)


@dataclass(frozen=True)
class Fit:
    """Result of :meth:`GaussNewton.fit`.

    Attributes:
        table: The last of all iterates, the start included, that held-out samples do not say is worse than those
            before it, of those within the bound on their error where any is.
        iterations: One line per accepted step; the first line is the start.
        stopped: Why it ended, in words.
        damping: Where a fit on further samples goes on.
        model: Of the last step; None before one.
    """

    table: SolverTable
    iterations: tuple[Iteration, ...]
    stopped: str
    damping: float = FIRST_DAMPING
    model: Model | None = None


def robust_scale(squared: Array, factor: float = 1.0) -> float:
    """c² of the robust loss: ``factor`` times the median of squared errors ``(B,)``; infinite, plain squares, for 0."""
    median = float(np.median(squared))
    return factor * median if factor > 0 and median > 0 else float("inf")


def robust_loss(squared: Array, c2: float) -> Array:
    """Robust loss of squared errors of any shape, in it; themselves for infinite c²."""
    with np.errstate(invalid="ignore"):
        loss = 2 * squared / (1 + np.sqrt(1 + squared / c2))
    return np.where(np.isinf(squared), np.inf, loss)


def robust_mean(squared: Array, c2: float) -> float:
    """Mean of the robust loss over squared errors ``(B,)``; their plain mean for infinite c²."""
    return float(robust_loss(squared, c2).mean())
