r"""Rows fitted one after the other, along one roll-out: the common part of IIA and the whole-trajectory fit.

*Directions*, which are rows themselves, are added to a row, with the coefficients that bring its state nearest to a
*target*:

.. math:: x_k = \hat x_k + \sum_d \beta_d v_d, \qquad
          \beta = \arg\min \mathbb E \| x_k^\* - \hat x_k - \textstyle\sum_d \beta_d v_d \|^2.

Then the roll-out goes on with the fitted row: the next row is fitted at the states of inference. The two methods differ
in directions and targets. The target of IIA (:mod:`longstride.calibration.rowwise.iia`) is a fine solution of the same
step from the sampler's own state. The target of the other method
(:mod:`longstride.calibration.rowwise.whole_trajectory`) is a state of the reference solution from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.reports import RowReport
from longstride.sampler import Run, raise_if_not_finite
from longstride.table import Row, SolverTable

__all__ = ["RowPlan", "fit_rows"]


@dataclass(frozen=True)
class RowPlan:
    """How the row of one state is fitted.

    Attributes:
        directions: Directions by label.
        sizes: Numbers of leading directions to try; held-out samples choose among them.
        target: The target for the samples of a batch, given their run so far.
        reads: Indices of states and outputs that the target reads.
    """

    directions: dict[str, Row]
    sizes: tuple[int, ...]
    target: Callable[[Batch, Run], Tensor]
    reads: tuple[int, ...] = ()


@torch.inference_mode()
def fit_rows(
    samples: Samples,
    table: SolverTable,
    plans: Sequence[RowPlan | None],
    name: str,
    *,
    ridge: float,
    along_base: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table``, one after the other, in a single roll-out.

    Args:
        samples: The samples; a fitted row is accepted only if it does not raise the error of held-out samples.
        table: The base solver.
        plans: One plan per row; None leaves a row as it is.
        name: Name of the new table.
        ridge: Penalty towards the base row, relative to the energy of each direction.
        along_base: Whether to roll out along the base's own rows in place of the fitted rows.
        progress: Called with (rows done, rows in all).

    Raises:
        NonFiniteError: the network returned NaN or infinity.
    """
    last = _last_readers(table, plans)
    batches = samples.batches(samples.units.all)
    runs = {batch.number: Run(batch.noise, table, keep=True) for batch in batches}
    rows, reports = list(table.rows), []
    for k, (base, plan) in enumerate(zip(table.rows, plans, strict=True), start=1):
        for batch in batches:
            run = runs[batch.number]
            run.see(samples.call(f"call-{k}", batch, run))
            raise_if_not_finite(run.k, run.sigma, run.x, run.history.outputs[run.k])
        if plan is not None:
            report = _fit(samples, runs, table, k, plan, ridge)
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
    return replace(table, name=name, rows=tuple(rows), exact=table.exact and not changed), reports


def _last_readers(table: SolverTable, plans: Sequence[RowPlan | None]) -> tuple[list[int], list[int]]:
    """The last row that reads each state, and each output, by its base, its directions or its target."""
    states, outputs = [k + 1 for k in range(table.nfe + 1)], [0] * table.nfe
    for k, (base, plan) in enumerate(zip(table.rows, plans, strict=True), start=1):
        rows = [base, *(plan.directions.values() if plan is not None else ())]
        reads = plan.reads if plan is not None else ()
        for i in (*reads, *(i for row in rows for i in row.states)):
            states[i] = max(states[i], k)
        for j in (*reads, *(j for row in rows for j in row.outputs)):
            outputs[j] = max(outputs[j], k)
    return states, outputs


def _fit(
    samples: Samples, runs: Mapping[int, Run], table: SolverTable, k: int, plan: RowPlan, ridge: float
) -> RowReport:
    """Solve for the coefficients of row ``k`` on the fitted samples, and judge them on the held-out samples."""
    p, base = len(plan.directions), table.rows[k - 1]

    def products(batch: Batch) -> list[Array]:
        run = runs[batch.number]
        residual = plan.target(batch, run) - run.history.combine(base)
        directions = [run.history.combine(row) for row in plan.directions.values()]
        return [NormalEquations.of([d[part] for d in directions], residual[part]).pack() for part in batch.slices]

    packed = samples.map(f"fit-{k}", samples.units.all, products, lambda b: (p * p + p + 2,), whole=True)

    def equations(held_out: bool) -> NormalEquations:
        return NormalEquations.unpack(
            np.sum([packed[n] for n in (samples.units.held_out if held_out else samples.units.fitted)], axis=0), p
        )

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
