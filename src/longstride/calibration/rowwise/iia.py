r"""Improved Integration Approximation: per step, the coefficients that best meet a fine solution.

The row of any base solver gives :math:`\hat x_{i+1}`. M fine steps from the sampler's own state :math:`x_i` give the
target :math:`x_{i+1}^\*`. A few *directions* (:mod:`longstride.calibration.rowwise.directions`) are added to the row:

.. math:: x_{i+1} = \hat x_{i+1} + \sum_d \beta_d v_d, \qquad
          \beta = \arg\min \mathbb E \| x_{i+1}^\* - \hat x_{i+1} - \textstyle\sum_d \beta_d v_d \|^2

States are rolled out along the calibrated rows, as at inference.

References:
    Zhang, Niwa & Kleijn, On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation,
    ICLR 2024. https://arxiv.org/abs/2304.11328
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from longstride.calibration.reference.solve import refine
from longstride.calibration.rowwise.directions import DIRECTIONS
from longstride.calibration.rowwise.fit import RowPlan, fit_rows
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.course import Course
from longstride.errors import InputError, unknown
from longstride.reports import RowReport
from longstride.sampler import Run, sample
from longstride.schedule import Schedule
from longstride.solvers import classical_solvers
from longstride.table import SolverTable

__all__ = ["PUBLISHED", "IIASettings", "Published", "calibrate_iia", "fine_step"]

Trajectory = Literal["calibrated", "base"]


@dataclass(frozen=True)
class IIASettings:
    """Settings of IIA; the defaults are the paper's for DDIM.

    Attributes:
        directions: Family of directions, one of :data:`~longstride.calibration.rowwise.directions.DIRECTIONS`.
        r: How far the family looks back: it uses the r + 1 most recent gradients.
        substeps: Fine network calls M of the target per network call of the step. A step of one call has a target of M
            calls. A step of Heun's has two calls, and so a target of 2 M calls: M steps of Heun's.
        fine: Solver of the target; ``"base"``: the base solver itself.
        ridge: Penalty towards the base row, relative to the energy of each direction.
        stages: Whether states within a step (Heun's predictor) are fitted, too; the paper does not fit them.
        trajectory: States at which rows are fitted: ``"calibrated"``, the states of inference, or ``"base"``, the
            states of the base solver, for comparison.
    """

    directions: str = "differences"
    r: int = 1
    substeps: int = 10
    fine: str = "base"
    ridge: float = 1e-6
    stages: bool = False
    trajectory: Trajectory = "calibrated"

    def __post_init__(self) -> None:
        if self.r < 0 or self.substeps < 1 or not 0 <= self.ridge < np.inf:
            raise InputError(f"expected r >= 0, substeps >= 1 and a finite ridge >= 0, got {self}")
        if self.directions not in DIRECTIONS:
            raise unknown("family of directions", self.directions, DIRECTIONS)
        if self.fine != "base" and self.fine not in classical_solvers():
            raise unknown("fine solver", self.fine, ("base", *classical_solvers()))
        if self.trajectory not in get_args(Trajectory):
            raise unknown("trajectory", self.trajectory, get_args(Trajectory))


@dataclass(frozen=True)
class Published:
    """A published form of IIA: its base solvers and settings.

    Attributes:
        label: Label for people.
        bases: Base solvers.
        settings: Settings of IIA.
        guided: Whether the form is for guided sampling only.
    """

    label: str
    bases: tuple[str, ...]
    settings: IIASettings
    guided: bool = False


_DPM = ("dpm_solver_2m", "dpmpp_2m", "dpm_solver_3m", "dpmpp_3m", "dpm_solver_2", "dpmpp_2s")
#: The methods that the paper names; each is a choice of base, directions and r.
PUBLISHED: dict[str, Published] = {
    "iia_ddim": Published("IIA-DDIM", ("ddim",), IIASettings()),
    "iia_spndm": Published("IIA-SPNDM", ("spndm",), IIASettings()),
    "iia_ipndm": Published("IIA-IPNDM", ("ipndm",), IIASettings()),
    "biia_edm": Published("BIIA-EDM", ("heun",), IIASettings("increments", r=0)),
    "iia_edm": Published("IIA-EDM", ("heun",), IIASettings("split", r=1)),
    "iia_dpm_solver": Published("IIA-DPM-Solver", _DPM, IIASettings()),
    "iia_ddim_cfg": Published("IIA-DDIM, one β", ("ddim",), IIASettings("increments", r=0), guided=True),
}


def fine_step(
    table: SolverTable, k: int, settings: IIASettings, floor: float, schedule: Schedule | None = None
) -> SolverTable:
    """The fine solver from the start of the step of row ``k`` to that row's level.

    It takes as many steps as it can make with M times the calls of the whole step. If these calls do not pay for one
    step of the solver, DDIM takes its place.

    Args:
        table: The base solver.
        k: Index of the row.
        settings: Give the solver and M.
        floor: Least positive level.
        schedule: The network's schedule, for solvers whose formulas use times.
    """
    start, end = table.step_of_row(k), table.grid[bisect_left(table.grid, k)]
    budget = settings.substeps * (end - start)
    own, options = settings.fine == "base", dict(table.options) if settings.fine == "base" else {}
    name = table.name if own else settings.fine
    # Options that name every step of the base (``orders=``) do not fit; the defaults of the solver do.
    for chosen in (options, {}) if options else ({},):
        for steps in range(budget, 0, -1):
            try:
                fine = classical_solvers()[name](refine(table, start, k, steps, floor, schedule), **chosen)
            except InputError:  # too few levels for this solver
                continue
            if fine.nfe <= budget:
                return fine
    return classical_solvers()["ddim"](refine(table, start, k, budget, floor))


class _Targets:
    """Fine solutions of the present step, by batch; a predictor and the row that corrects it may share a solution."""

    def __init__(self, table: SolverTable, settings: IIASettings, floor: float, schedule: Schedule | None) -> None:
        self.table, self.settings, self.floor, self.schedule = table, settings, floor, schedule
        self._known: dict[tuple[int, int, float, float], Tensor] = {}

    def __call__(self, k: int, batch: Batch, run: Run) -> Tensor:
        start = self.table.step_of_row(k)
        key = (batch.number, start, float(self.table.alphas[k]), float(self.table.sigmas[k]))
        if key not in self._known:
            self._known = {other: kept for other, kept in self._known.items() if other[1] == start}
            x, first = run.history.states[start].to(run.dtype), run.history.outputs[start]
            fine = fine_step(self.table, k, self.settings, self.floor, self.schedule)
            led = Course.of(self.table).before(start)
            self._known[key] = sample(batch.network, x, fine, first=first, before=led).to(run.history.dtype)
        return self._known[key]


def calibrate_iia(
    samples: Samples,
    table: SolverTable,
    settings: IIASettings,
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table`` by fine solutions of their own steps.

    It spends at most ``M + 1`` network calls per sample and network call of the table.

    Args:
        samples: The samples; a fitted row is accepted only if it does not raise the error of held-out samples.
        table: The base solver.
        settings: See :class:`IIASettings`.
        name: Name of the calibrated table.
        progress: Called with (rows done, rows in all).

    Raises:
        InputError: the base is no classical solver, and no other solver is named for the fine steps.
        NonFiniteError: the network returned NaN or infinity.
    """
    if settings.fine == "base" and table.name not in classical_solvers():
        raise InputError(f"{table.name} is no classical solver, which fine steps need: say fine='ddim' or another one")
    targets = _Targets(table, settings, samples.floor, samples.network.schedule)

    def plan(k: int) -> RowPlan | None:
        if k not in table.grid and not settings.stages:
            return None
        directions = DIRECTIONS[settings.directions](table, k, settings.r)
        return RowPlan(directions, (len(directions),), partial(targets, k), (table.step_of_row(k),))

    return fit_rows(
        samples,
        table,
        [plan(k) for k in range(1, table.nfe + 1)],
        name,
        ridge=settings.ridge,
        along_base=settings.trajectory == "base",
        progress=progress,
    )
