r"""Rows fitted one after the other, along one roll-out: what IIA and the whole-trajectory fit have in common.

A row goes from a few earlier states and outputs to the next state. Some *directions*, rows themselves, are added to it,
with the coefficients that bring its state nearest to a *target*:

.. math:: x_k = \hat x_k + \sum_d \beta_d v_d, \qquad
          \beta = \arg\min \mathbb E \| x_k^\* - \hat x_k - \textstyle\sum_d \beta_d v_d \|^2.

Then the roll-out goes on with the fitted row, so that the next one is fitted at the states that inference will see.
The two methods differ in their directions, and in their target: a fine solution of the same step from the sampler's
own state (:mod:`longstride.calibration.iia`), or the state of a converged run from the same noise
(:mod:`longstride.calibration.trajectory`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.normal_equations import Array, NormalEquations
from longstride.sampler import Run, raise_if_not_finite
from longstride.table import Row, SolverTable

__all__ = ["Plan", "RowReport", "fit_rows"]


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


@dataclass(frozen=True)
class Plan:
    """How the row of one state is fitted.

    Attributes:
        directions: What may be added to the row, by label.
        sizes: Numbers of leading directions to try; the one that is best on held-out samples is taken.
        target: State to come near to, for the samples of a batch, given their run so far.
        reads: Indices of states and outputs that the target reads.
    """

    directions: dict[str, Row]
    sizes: tuple[int, ...]
    target: Callable[[Batch, Run], Tensor]
    reads: tuple[int, ...] = ()


@torch.inference_mode()
def fit_rows(
    batches: Batches,
    table: SolverTable,
    plans: Sequence[Plan | None],
    name: str,
    *,
    ridge: float,
    along_base: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table``, one after the other, in a single roll-out.

    Args:
        batches: The samples; what is fitted on some is accepted only if it holds on the held-out ones.
        table: The base solver.
        plans: One per row; None leaves a row as it is.
        name: Name of the new table.
        ridge: Penalty towards the base row, relative to the energy of each direction.
        along_base: Whether to roll out along the base's own rows in place of the fitted ones.
        progress: Called with (rows done, rows in all).

    Raises:
        NonFiniteError: the network returned NaN or infinity.
    """
    last = _last_readers(table, plans)
    runs = {batch.number: Run(batch.noise, table, keep=True) for batch in batches.mine}
    rows, reports = list(table.rows), []
    for k, (base, plan) in enumerate(zip(table.rows, plans, strict=True), start=1):
        for batch in batches.mine:
            run = runs[batch.number]
            run.see(batches.call(f"call-{k}", batch, run.x, run.sigma))
            raise_if_not_finite(run.k, run.sigma, run.x, run.history.outputs[run.k])
        if plan is not None:
            found = {b.number: _products(batches, b, runs[b.number], k, base, plan) for b in batches.mine}
            report = _fit(batches, table, k, plan, found, ridge)
            reports.append(report)
            if report.accepted:
                for weight, direction in zip(report.coefficients, plan.directions.values(), strict=False):
                    base = base + weight * direction
                rows[k - 1] = base.pruned()
        for run in runs.values():
            run.advance(None if along_base else rows[k - 1])
            run.history.forget(last, k)
        if progress is not None:
            progress(k, table.nfe)
    changed = any(new != old for new, old in zip(rows, table.rows, strict=True))
    return replace(table, name=name, rows=tuple(rows), exact=not changed), reports


def _products(batches: Batches, batch: Batch, run: Run, k: int, base: Row, plan: Plan) -> Array:
    """Packed normal equations of row ``k`` on one batch."""

    def products() -> dict[str, Array]:
        combine, equations = run.history.combine, NormalEquations(len(plan.directions))
        residual = plan.target(batch, run) - combine(base)
        equations.add([combine(row) for row in plan.directions.values()], residual)
        return {"products": equations.pack()}

    return batches.part(f"fit-{k}/{batch.number}", products)["products"]


def _last_readers(table: SolverTable, plans: Sequence[Plan | None]) -> tuple[list[int], list[int]]:
    """For every state and output the last row that reads it, by its base, its directions or its target."""
    states, outputs = [k + 1 for k in range(table.nfe + 1)], [0] * table.nfe
    for k, (base, plan) in enumerate(zip(table.rows, plans, strict=True), start=1):
        rows = [base, *(plan.directions.values() if plan is not None else ())]
        reads = plan.reads if plan is not None else ()
        for i in (*reads, *(i for row in rows for i in row.states)):
            states[i] = max(states[i], k)
        for j in (*reads, *(j for row in rows for j in row.outputs)):
            outputs[j] = max(outputs[j], k)
    return states, outputs


def _fit(batches: Batches, table: SolverTable, k: int, plan: Plan, found: dict[int, Array], ridge: float) -> RowReport:
    """Solve for the coefficients of row ``k`` on the fitted batches, and judge them on the held-out ones."""
    p = len(plan.directions)

    def equations(held_out: bool) -> NormalEquations:
        chosen = {b.number: found[b.number] for b in batches.mine if b.held_out == held_out}
        parts = batches.gather(chosen, batches.numbers(held_out=held_out), lambda b: (p * p + p + 2,))
        return NormalEquations.unpack(np.sum(parts, axis=0), p)

    train, test = equations(False), equations(True)
    solved = [np.append(train.leading(size).solve(ridge), np.zeros(p - size)) for size in plan.sizes]
    used, beta = min(zip(plan.sizes, solved, strict=True), key=lambda pair: test.mse(pair[1]))
    zero = np.zeros(p)
    return RowReport(
        row=k,
        sigma_from=float(table.sigmas[table.step_of_row(k)]),
        sigma_to=float(table.sigmas[k]),
        labels=tuple(plan.directions)[:used],
        coefficients=tuple(beta[:used].tolist()),
        base_error=train.mse(zero) ** 0.5,
        error=train.mse(beta) ** 0.5,
        held_out_base_error=test.mse(zero) ** 0.5,
        held_out_error=test.mse(beta) ** 0.5,
        accepted=bool(test.mse(beta) <= test.mse(zero)),
    )
