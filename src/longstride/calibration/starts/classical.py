"""Starts of fits: every classical solver on every grid, between the two ends of a table.

A fit is not convex, so that its start matters; under strong guidance the start decides. Beside the usual grids, two
grids are made for the network: dynamic programming chooses their levels, such that DDIM's steps leave reference
trajectories least. ``dp`` weighs the error of a step 1.1 times as much as the error of the step before, and ``dp_late``
1.2 times; see :mod:`longstride.calibration.starts.dynamic_programming`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from longstride.arrays import Array
from longstride.calibration.samples import Samples
from longstride.calibration.starts.dynamic_programming import DISCOUNTS, own_levels
from longstride.errors import InputError
from longstride.grid import LastLevel, grid, spacing_of
from longstride.nodes import Nodes
from longstride.schedule import Flow, Schedule
from longstride.solvers import VARIANTS, Variant, build, steps_for_nfe
from longstride.table import SolverTable

__all__ = ["CLASSICAL", "GRIDS", "classical_starts", "classical_tables", "most_starts", "nodes_between"]

#: Classical solvers of one call per step, by name.
CLASSICAL: dict[str, Variant] = {name: one for name, one in VARIANTS.items() if one.start}
#: Grids that need no network, by name; ``shift3`` has SD3's levels, for flows with another shift.
GRIDS = ("karras", "log_snr", "uniform", "quadratic", "shift3")


def most_starts() -> int:
    """Most classical starts."""
    return len(CLASSICAL) * (len(GRIDS) + len(DISCOUNTS))


@dataclass(frozen=True)
class _Range:
    """The two ends of grids.

    Attributes:
        like: A table with the two levels.
        schedule: The network's schedule, or None.
        floor: Least positive level, if the table ends at sigma 0; None: the table's least positive level.
    """

    like: SolverTable
    schedule: Schedule | None
    floor: float | None

    @property
    def final(self) -> LastLevel:
        """Last level of the grids."""
        return "zero" if self.like.sigmas[-1] == 0 else "sigma_min"

    def levels(self, name: str, steps: int) -> Array | None:
        """Levels of a grid by name; None if the grid does not run between the two levels of the table.

        Raises:
            InputError: there are too few levels, or levels meet.
        """
        sigmas, schedule = self.like.sigmas, self.schedule
        if name in ("karras", "log_snr"):
            positive = sigmas[sigmas > 0]
            low = float(positive.min()) if self.final == "sigma_min" or self.floor is None else self.floor
            high = float(sigmas[0])
            found = grid(name, steps, schedule=schedule, sigma_min=low, sigma_max=high, final=self.final)
        elif name == "shift3":
            if not isinstance(schedule, Flow) or schedule.shift == 3:
                return None
            found = grid("uniform", steps, schedule=replace(schedule, shift=3.0), final=self.final)
        elif schedule is None:
            return None
        else:
            found = grid(name, steps, schedule=schedule, final=self.final)
        return found if np.allclose(found[[0, -1]], sigmas[[0, -1]], rtol=1e-6) else None


def classical_tables(
    like: SolverTable,
    schedule: Schedule | None = None,
    floor: float | None = None,
    own: Mapping[str, Array] | None = None,
    solvers: Mapping[str, Variant] = CLASSICAL,
) -> dict[str, SolverTable]:
    """Classical solvers by ``solver@grid``, with the calls and the first and last level of a table.

    Args:
        like: The table.
        schedule: The network's schedule; without a schedule there are no grids in network time.
        floor: Least positive level, for tables that end at sigma 0; default: the least positive level of ``like``.
        own: Levels of further grids by name, each from the first to the last level of ``like``.
        solvers: The solvers by name.
    """
    between, own, found = _Range(like, schedule, floor), own or {}, dict[str, SolverTable]()
    for name, one in solvers.items():
        try:
            steps = steps_for_nfe(one.solver, like.nfe, final_zero=between.final == "zero", **one.options)
        except InputError:
            continue
        for grid_name in (*GRIDS, *own):
            try:
                if grid_name not in own:
                    levels = between.levels(grid_name, steps)
                else:
                    levels = own[grid_name].copy() if len(own[grid_name]) == steps + 1 else None
                if levels is None:
                    continue
                levels[0], levels[-1] = like.sigmas[0], like.sigmas[-1]
                table = build(one.solver, levels, schedule=schedule, **one.options)
            except InputError:  # too few levels for this solver, or levels that meet
                continue
            if np.array_equal(table.alphas[[0, -1]], like.alphas[[0, -1]]):
                found[f"{name}@{grid_name}"] = table
    return found


def nodes_between(
    like: SolverTable,
    steps: int,
    names: Sequence[str] = (),
    schedule: Schedule | None = None,
    floor: float | None = None,
) -> Nodes:
    """Levels of the first of some grids that runs between the ends of a table; else they are even in log-SNR.

    Args:
        like: The table.
        steps: Number of steps.
        names: Names of grids; default: the grid that people use, Karras' for alpha 1 and else uniform in time.
        schedule: The network's schedule, or None for alpha 1.
        floor: Least positive level, for tables that end at sigma 0; default: the least positive level of ``like``.

    Raises:
        InputError: too few steps, or a table that is not of the schedule.
    """
    between = _Range(like, schedule, floor)
    names = names or ("karras" if schedule is None else spacing_of("auto", schedule),)
    levels = next((one for name in (*names, "log_snr") if (one := between.levels(name, steps)) is not None), None)
    if levels is not None:
        levels[0], levels[-1] = like.sigmas[0], like.sigmas[-1]
        nodes = Nodes.of(levels, None, schedule)
        if np.array_equal(nodes.alphas[[0, -1]], like.alphas[[0, -1]]):
            return nodes
    raise InputError("the table is not of the network's schedule: pass the schedule that it was made with")


def classical_starts(samples: Samples, table: SolverTable) -> dict[str, SolverTable]:
    """Every classical solver on every grid between the ends of ``table``, and on grids that are made for the network.

    Args:
        samples: The samples; a few of them choose levels by dynamic programming.
        table: Gives the calls and the two ends.
    """
    return classical_tables(table, samples.network.schedule, samples.floor, own_levels(samples, table))
