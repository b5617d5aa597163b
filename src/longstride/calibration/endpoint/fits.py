"""Results of Gauss–Newton fits, from which further fits go on."""

from __future__ import annotations

from dataclasses import dataclass

from longstride.arrays import Array
from longstride.calibration.endpoint.prior import Prior
from longstride.calibration.normal_equations import NormalEquations
from longstride.reports import Iteration
from longstride.table import SolverTable

__all__ = ["FIRST_DAMPING", "Fit", "Quadratic"]

#: Damping of a first step. A tenth of it would go a little farther, in directions that hardly matter for the error.
#: Tables of neighbouring numbers of calls would then differ too much for a table to be filled between them.
FIRST_DAMPING = 1e-3


@dataclass(frozen=True)
class Quadratic:
    """The quadratic model of the objective on some units; a fit on more units goes on with it.

    Attributes:
        equations: Normal equations over the units.
        at: Free numbers of the table whose residuals were measured, shape ``(p,)``.
        numbers: Numbers of the units.
    """

    equations: NormalEquations
    at: Array
    numbers: tuple[int, ...]

    def moved(self, values: Array) -> NormalEquations:
        """The equations at other free numbers ``values``, under residuals that are linear in free numbers."""
        return self.equations.moved(values - self.at)


@dataclass(frozen=True)
class Fit:
    """Result of :meth:`GaussNewton.fit`.

    Attributes:
        table: The best iterate by held-out samples, the start included; see :meth:`GaussNewton.better`.
        iterations: One line per accepted step; the first line is the start.
        stopped: Why the fit ended, in words.
        damping: Lambda of a next step.
        model: Model of the last step; None without a step.
        prior: What was known beforehand; a further fit goes on with it.
    """

    table: SolverTable
    iterations: tuple[Iteration, ...]
    stopped: str
    damping: float = FIRST_DAMPING
    model: Quadratic | None = None
    prior: Prior | None = None
