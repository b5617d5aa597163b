r"""Whole-trajectory calibration: every row is fitted to where a converged run from the same noise stands at its level.

The target of row k is the state :math:`x^*(\sigma_k)` of one accurate run from the same first state, where IIA's is a
fine solution from the sampler's own state. So each step also repairs what earlier steps did wrong. One reference run
serves every grid and step count (:mod:`longstride.calibration.dense`).

What may be added to a row is the network's outputs, the latest first. How many of them a row uses is decided on
held-out noise: more fit better, and may hold worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.dense import solve_dense
from longstride.calibration.normal_equations import Array, double
from longstride.calibration.rows import Plan, RowReport, fit_rows
from longstride.errors import InputError
from longstride.sampler import Run
from longstride.table import Row, SolverTable

__all__ = ["GlobalSettings", "calibrate_global"]


@dataclass(frozen=True)
class GlobalSettings:
    """Settings of the whole-trajectory fit.

    Attributes:
        window: Most outputs that a row may be given, the latest first; None: all.
        ridge: Penalty towards the base row, relative to the energy of each direction.
    """

    window: int | None = None
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if (self.window is not None and self.window < 1) or not 0 <= self.ridge < np.inf:
            raise InputError(f"expected a window of at least 1 and a finite ridge >= 0, got {self}")


def calibrate_global(
    batches: Batches,
    table: SolverTable,
    settings: GlobalSettings,
    name: str,
    *,
    steps: int,
    floor: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table`` by the states of a converged run.

    Args:
        batches: The samples; what is fitted on some is accepted only if it holds on the held-out ones.
        table: The base solver.
        settings: See :class:`GlobalSettings`.
        name: Name of the calibrated table.
        steps: Fine steps of the converged run.
        floor: Least positive level that it looks at.
        progress: Called with (rows done, rows in all).

    Raises:
        NonFiniteError: the network returned NaN or infinity.
    """
    states = {batch.number: _states(batches, batch, table, steps, floor) for batch in batches.mine}

    def plan(k: int) -> Plan:
        reach = k if settings.window is None else min(k, settings.window)
        directions = {f"data({j})": Row({}, {j: 1.0}) for j in range(k - 1, k - 1 - reach, -1)}

        def target(batch: Batch, run: Run) -> Tensor:
            return states[batch.number][k].to(run.history.states[k - 1])

        return Plan(directions, tuple(range(1, reach + 1)), target)

    plans = [plan(k) for k in range(1, table.nfe + 1)]
    return fit_rows(batches, table, plans, name, ridge=settings.ridge, progress=progress)


def _states(batches: Batches, batch: Batch, table: SolverTable, steps: int, floor: float) -> Tensor:
    """States of the converged run at every level of ``table``, shape ``(K + 1, b, *)``."""

    def solve() -> dict[str, Array]:
        solution = solve_dense(batch.denoiser, batch.noise, table, steps=steps, sigma_floor=floor)
        found = torch.stack([solution.at(float(sigma)) for sigma in table.sigmas])
        return {"states": double(found).cpu().numpy()}

    return torch.from_numpy(batches.part(f"solution/{batch.number}", solve)["states"])
