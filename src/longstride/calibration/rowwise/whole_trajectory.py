r"""Whole-trajectory calibration: every row is fitted to the state of the reference solution at its level.

The target of row k is the state :math:`x^*(\sigma_k)` of the reference solution from the same noise
(:mod:`longstride.calibration.reference.trajectory`). IIA's target is a fine solution from the sampler's own state. So
here each step also repairs errors of earlier steps.

The directions are the network's outputs, the latest first. Held-out samples choose how many a row uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double
from longstride.calibration.reference.trajectory import solve_dense
from longstride.calibration.rowwise.fit import RowPlan, fit_rows
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.errors import InputError
from longstride.reports import RowReport
from longstride.sampler import Run
from longstride.table import Row, SolverTable

__all__ = ["GlobalSettings", "calibrate_global"]


@dataclass(frozen=True)
class GlobalSettings:
    """Settings of the whole-trajectory fit.

    Attributes:
        window: Most outputs that are added to a row, the latest first; None: all.
        ridge: Penalty towards the base row, relative to the energy of each direction.
    """

    window: int | None = None
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if (self.window is not None and self.window < 1) or not 0 <= self.ridge < np.inf:
            raise InputError(f"expected a window of at least 1 and a finite ridge >= 0, got {self}")


def calibrate_global(
    samples: Samples,
    table: SolverTable,
    settings: GlobalSettings,
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table`` by the states of the reference solution.

    Args:
        samples: The samples; a fitted row is accepted only if it does not raise the error of held-out samples.
        table: The base solver.
        settings: See :class:`GlobalSettings`.
        name: Name of the calibrated table.
        progress: Called with (rows done, rows in all).

    Raises:
        NonFiniteError: the network returned NaN or infinity.
    """
    states = _States(samples, table)

    def plan(k: int) -> RowPlan:
        reach = k if settings.window is None else min(k, settings.window)
        directions = {f"data({j})": Row({}, {j: 1.0}) for j in range(k - 1, k - 1 - reach, -1)}

        def target(batch: Batch, run: Run) -> Tensor:
            return states.at(batch, k).to(run.history.states[k - 1])

        return RowPlan(directions, tuple(range(1, reach + 1)), target)

    plans = [plan(k) for k in range(1, table.nfe + 1)]
    return fit_rows(samples, table, plans, name, ridge=settings.ridge, progress=progress)


class _States:
    """States of the reference solution of every sample at every level of ``table``."""

    def __init__(self, samples: Samples, table: SolverTable) -> None:
        levels = [float(sigma) for sigma in table.sigmas]

        def solve(batch: Batch) -> list[Array]:
            solution = solve_dense(batch.network, batch.noise, table, steps=samples.steps, sigma_floor=samples.floor)
            return batch.split(double(torch.stack([solution.at(sigma) for sigma in levels], 1)).cpu().numpy())

        self._found = samples.local("solution", samples.units.all, solve)

    def at(self, batch: Batch, k: int) -> Tensor:
        """States of the samples of a batch at level k, shape ``(b, *)``."""
        return torch.from_numpy(np.concatenate([self._found[number][:, k] for number in batch.units]))
