r"""Improved Integration Approximation: per step, the coefficients that best meet a fine-grained solution.

One principle for every solver. The base solver's row gives :math:`\hat x_{i+1}`; M fine steps from the sampler's own
state :math:`x_i` give the target :math:`x_{i+1}^\*`; and coefficients of a few *directions*
(:mod:`longstride.calibration.directions`) are added to the row:

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
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.directions import DIRECTIONS
from longstride.calibration.normal_equations import Array, NormalEquations
from longstride.calibration.reference import refine
from longstride.errors import InputError, unknown
from longstride.sampler import Run, raise_if_not_finite, sample
from longstride.schedule import Schedule
from longstride.solvers import SOLVERS
from longstride.table import SolverTable

__all__ = ["PUBLISHED", "IIASettings", "Published", "RowReport", "calibrate_iia"]

Trajectory = Literal["calibrated", "base"]


@dataclass(frozen=True)
class IIASettings:
    """Settings of IIA; the defaults are the paper's for DDIM.

    Attributes:
        directions: Family of directions, one of :data:`~longstride.calibration.directions.DIRECTIONS`.
        r: How far it looks back: the r + 1 most recent gradients are used.
        substeps: Fine steps M of the target per network call of the step: a step of one call has M fine calls for its
            target, one of Heun's steps, with two, has 2 M, which are M of its own steps.
        fine: Solver that takes them; ``"base"``: the base solver itself.
        ridge: Penalty towards the base row, relative to the energy of each direction.
        stages: Whether states within a step (Heun's predictor) are fitted too; the paper leaves them.
        trajectory: Along which states the rows are fitted: ``"calibrated"``, those that inference will see, or
            ``"base"``, those of the base solver, for comparison.
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
        if self.fine != "base" and self.fine not in SOLVERS:
            raise unknown("fine solver", self.fine, ("base", *SOLVERS))
        if self.trajectory not in get_args(Trajectory):
            raise unknown("trajectory", self.trajectory, get_args(Trajectory))


@dataclass(frozen=True)
class Published:
    """A published form of IIA: its base solvers and settings.

    Attributes:
        bases: Solvers that it is for.
        settings: Its settings.
    """

    bases: tuple[str, ...]
    settings: IIASettings


#: The methods that the paper names; each is a choice of base, directions and r, and nothing else.
PUBLISHED: dict[str, Published] = {
    "iia_ddim": Published(("ddim",), IIASettings()),
    "iia_spndm": Published(("spndm",), IIASettings()),
    "iia_ipndm": Published(("ipndm",), IIASettings()),
    "biia_edm": Published(("heun",), IIASettings("increments", r=0)),
    "iia_edm": Published(("heun",), IIASettings("split", r=1)),
    "iia_dpm_solver": Published(
        ("dpm_solver_2m", "dpmpp_2m", "dpm_solver_3m", "dpmpp_3m", "dpm_solver_2", "dpmpp_2s"), IIASettings()
    ),
    "iia_ddim_cfg": Published(("ddim",), IIASettings("increments", r=0)),
}


@dataclass(frozen=True)
class RowReport:
    """What calibration did to one row.

    Attributes:
        row: Index of the state that the row gives.
        sigma_from: Level where its step starts.
        sigma_to: Level of the state.
        labels: Names of the directions.
        coefficients: Their fitted coefficients.
        base_error: Root-mean-square distance of the base row to the target, on the samples that were fitted.
        error: The same with the coefficients.
        held_out_base_error: As ``base_error``, on the held-out samples.
        held_out_error: As ``error``, on the held-out samples.
        accepted: Whether the coefficients are in use: they must not raise the held-out error of this step, and the
            gate must not have given the row back to the base.
    """

    row: int
    sigma_from: float
    sigma_to: float
    labels: tuple[str, ...]
    coefficients: tuple[float, ...]
    base_error: float
    error: float
    held_out_base_error: float
    held_out_error: float
    accepted: bool


def fine_table(
    table: SolverTable, k: int, settings: IIASettings, floor: float, schedule: Schedule | None = None
) -> SolverTable:
    """The fine solver from the start of the step of row ``k`` to that row's level.

    It takes as many steps as M times the calls of the whole step allow; a solver that cannot take even one with them,
    such as Heun with one, is replaced by DDIM.

    Args:
        table: The base solver.
        k: The row.
        settings: Give the solver and M.
        floor: Least positive level.
        schedule: The network's, for solvers whose formulas use its times.
    """
    start, end = table.step_of_row(k), table.grid[bisect_left(table.grid, k)]
    budget = settings.substeps * (end - start)
    own, options = settings.fine == "base", dict(table.options) if settings.fine == "base" else {}
    name = table.name if own else settings.fine
    # Options may name every step of the base (``orders=``) and then do not fit; its defaults do.
    for chosen in (options, {}) if options else ({},):
        for steps in range(budget, 0, -1):
            try:
                fine = SOLVERS[name](refine(table, start, k, steps, floor, schedule), **chosen)
            except InputError:  # too few levels for this solver
                continue
            if fine.nfe <= budget:
                return fine
    return SOLVERS["ddim"](refine(table, start, k, budget, floor))


class _Targets:
    """Fine solutions of the step at hand, by batch; a predictor and the row that corrects it may share one."""

    def __init__(self, table: SolverTable, settings: IIASettings, floor: float, schedule: Schedule | None) -> None:
        self.table, self.settings, self.floor, self.schedule = table, settings, floor, schedule
        self._known: dict[tuple[int, int, float, float], Tensor] = {}

    def __call__(self, batch: Batch, run: Run, k: int) -> Tensor:
        start = self.table.step_of_row(k)
        key = (batch.number, start, float(self.table.alphas[k]), float(self.table.sigmas[k]))
        if key not in self._known:
            self._known = {other: kept for other, kept in self._known.items() if other[1] == start}
            x, first = run.history.states[start].to(run.dtype), run.history.outputs[start]
            fine = fine_table(self.table, k, self.settings, self.floor, self.schedule)
            self._known[key] = sample(batch.denoiser, x, fine, first=first).to(run.history.dtype)
        return self._known[key]


@torch.inference_mode()
def calibrate_iia(
    batches: Batches,
    table: SolverTable,
    settings: IIASettings,
    name: str,
    *,
    floor: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table``, one after the other, in a single roll-out.

    Less than ``M + 1`` network calls per sample and network call of the table are spent.

    Args:
        batches: The samples; what is fitted on some is accepted only if it holds on the held-out ones.
        table: The base solver.
        settings: See :class:`IIASettings`.
        name: Name of the calibrated table.
        floor: Least positive level of the fine solutions.
        progress: Called with (rows done, rows in all).

    Raises:
        NonFiniteError: the network returned NaN or infinity.
    """
    last = _last_readers(table, settings)
    runs = {batch.number: Run(batch.noise, table, keep=True) for batch in batches.mine}
    targets = _Targets(table, settings, floor, getattr(batches.denoiser, "schedule", None))
    rows, reports = list(table.rows), []
    for k, base in enumerate(table.rows, start=1):
        for batch in batches.mine:
            run = runs[batch.number]
            run.see(batches.call(f"call-{k}", batch, run.x, run.sigma))
            raise_if_not_finite(run.k, run.sigma, run.x, run.history.outputs[run.k])
        if k in table.grid or settings.stages:
            candidates = DIRECTIONS[settings.directions](table, k, settings.r)
            found: dict[int, Array] = {}
            for batch in batches.mine:

                def products(batch: Batch = batch) -> dict[str, Array]:
                    run = runs[batch.number]
                    combine, equations = run.history.combine, NormalEquations(len(candidates))  # noqa: B023
                    residual = targets(batch, run, k) - combine(base)  # noqa: B023
                    equations.add([combine(row) for row in candidates.values()], residual)  # noqa: B023
                    return {"products": equations.pack()}

                found[batch.number] = batches.part(f"fit-{k}/{batch.number}", products)["products"]
            report = _fit(batches, table, k, tuple(candidates), found, settings.ridge)
            reports.append(report)
            if report.accepted:
                for weight, direction in zip(report.coefficients, candidates.values(), strict=True):
                    base = base + weight * direction
                rows[k - 1] = base.pruned()
        for run in runs.values():
            run.advance(rows[k - 1] if settings.trajectory == "calibrated" else None)
            run.history.forget(last, k)
        if progress is not None:
            progress(k, table.nfe)
    changed = any(new != old for new, old in zip(rows, table.rows, strict=True))
    return replace(table, name=name, rows=tuple(rows), exact=not changed), reports


def _last_readers(table: SolverTable, settings: IIASettings) -> tuple[list[int], list[int]]:
    """For every state and output the last row that reads it, by its base, its directions or its fine solution."""
    states, outputs = [k + 1 for k in range(table.nfe + 1)], [0] * table.nfe
    for k, base in enumerate(table.rows, start=1):
        start = table.step_of_row(k)
        rows = [base, *DIRECTIONS[settings.directions](table, k, settings.r).values()]
        for i in (start, *(i for row in rows for i in row.states)):
            states[i] = max(states[i], k)
        for j in (start, *(j for row in rows for j in row.outputs)):
            outputs[j] = max(outputs[j], k)
    return states, outputs


def _fit(
    batches: Batches, table: SolverTable, k: int, labels: tuple[str, ...], found: dict[int, Array], ridge: float
) -> RowReport:
    """Solve for the coefficients of row ``k`` on the fitted batches, and judge them on the held-out ones."""
    p = len(labels)

    def equations(held_out: bool) -> NormalEquations:
        chosen = {b.number: found[b.number] for b in batches.mine if b.held_out == held_out}
        parts = batches.gather(chosen, held_out=held_out, shape=lambda b: (p * p + p + 2,))
        return NormalEquations.unpack(np.sum(parts, axis=0), p)

    train, test = equations(False), equations(True)
    beta, zero = train.solve(ridge), np.zeros(p)
    return RowReport(
        row=k,
        sigma_from=float(table.sigmas[table.step_of_row(k)]),
        sigma_to=float(table.sigmas[k]),
        labels=labels,
        coefficients=tuple(beta.tolist()),
        base_error=train.mse(zero) ** 0.5,
        error=train.mse(beta) ** 0.5,
        held_out_base_error=test.mse(zero) ** 0.5,
        held_out_error=test.mse(beta) ** 0.5,
        accepted=bool(test.mse(beta) <= test.mse(zero)),
    )
