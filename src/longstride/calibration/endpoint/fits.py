"""What a Gauss–Newton fit gives, and what a further fit goes on with."""

from __future__ import annotations

from dataclasses import dataclass

from longstride.arrays import Array
from longstride.calibration.normal_equations import NormalEquations
from longstride.reports import Iteration
from longstride.table import SolverTable

__all__ = ["FIRST_DAMPING", "Fit", "Quadratic"]

#: Damping of a first step. A tenth of it would take the step a little farther, into directions that hardly matter for
#: the error, and tables for neighbouring numbers of calls would differ so much that none between them could be filled.
FIRST_DAMPING = 1e-3


@dataclass(frozen=True)
class Quadratic:
    """The quadratic model of the objective that a step was taken on; a fit on more samples need not make it again.

    Attributes:
        equations: Normal equations over some units.
        at: Free numbers of the table that the residuals belong to.
        numbers: The units.
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
    model: Quadratic | None = None
