"""What one run of a pipeline does, decided before it begins: its table, its network times, and their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from longstride.arrays import Array
from longstride.card import Card
from longstride.errors import InputError
from longstride.families import told_levels
from longstride.integrations.run_levels import Levels
from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.nodes import Nodes
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["Plan", "classical_plan", "plan_of_table"]


@dataclass(frozen=True, eq=False)
class Plan:
    """One run of K network calls.

    Attributes:
        table: The sampler, on the scale of the pipeline's states.
        times: What the network is told at every call, shape ``(K,)``.
        whole: Whether the times are whole numbers, as discrete schedulers of diffusers have them.
        settings: Settings of the scheduler.
        shape: Shape of one state that the plan is for, or None if it is for every shape.
        note: Origin of a table that no gate has judged; empty for others.
        card: The card whose table it is, or None.

    Raises:
        InputError: the network predicts something that the process does not allow.
    """

    table: SolverTable
    times: Array
    whole: bool
    settings: SchedulerSettings
    shape: tuple[int, ...] | None = None
    note: str = ""
    card: Card | None = None

    def __post_init__(self) -> None:
        _ = self.clean  # an impossible prediction is refused here, not in the middle of a run

    @property
    def calls(self) -> int:
        """Network calls K."""
        return self.table.nfe

    @property
    def order(self) -> int:
        """Network calls per step, if all steps but the last make as many; otherwise 1, as diffusers' PNDM says."""
        calls = np.diff(self.table.grid)
        return int(calls[0]) if (calls[:-1] == calls[0]).all() else 1

    @property
    def ratios(self) -> Array:
        """What diffusers calls ``sigmas``, shape ``(K + 1,)``: ``sigma / alpha``, or sigma itself for flows."""
        return told_levels(self.settings.noise_process.family, self.table.alphas, self.table.sigmas)

    def levels_from(self, call: int) -> Levels:
        """Levels of the steps from a call on. The first of them is at or below the level of the call."""
        alphas, sigmas, grid = self.table.alphas, self.table.sigmas, list(self.table.grid)
        levels = Levels(self.times[grid[:-1]], alphas[grid], sigmas[grid], self.whole, self.settings.clock)
        return levels.after(next(i for i, state in enumerate(grid) if state >= call))

    @cached_property
    def clean(self) -> tuple[tuple[float, float], ...]:
        """Weights of the state and of the network's output in the clean prediction, one pair per call."""
        levels = zip(self.table.alphas.tolist(), self.table.sigmas.tolist(), strict=True)
        return tuple(self.settings.noise_process.clean_weights(*level) for level in list(levels)[:-1])

    @cached_property
    def input_scale(self) -> tuple[float, ...]:
        """What the state is multiplied by before the network sees it, one factor per call."""
        return tuple(map(self.settings.noise_process.input_scale, self.table.sigmas[:-1].tolist()))


def classical_plan(settings: SchedulerSettings, levels: Levels, solver: str | None = None) -> Plan:
    """A classical solver on some levels.

    Args:
        settings: Settings of the scheduler.
        levels: Levels of the steps.
        solver: Name of the solver; default: the solver of ``settings``.

    Raises:
        InputError: the solver does not take these levels or options.
    """
    solver = solver or settings.solver
    nodes, counts = levels.distinct
    options = settings.solver_options(solver, nodes)
    schedule = None if settings.noise_process.family == "ve" else settings.schedule
    table = build(solver, nodes.sigmas, alphas=nodes.alphas, schedule=schedule, **options)
    table = table if max(counts) == 1 else table.lingering(counts)
    return Plan(table, *_call_times(table, levels, settings), settings)


def plan_of_table(table: SolverTable, times: Array, settings: SchedulerSettings) -> Plan:
    """A card's table, moved from the frame of its calibration to the scale of the pipeline's states.

    Args:
        table: The card's table.
        times: Network times of its states, shape ``(K + 1,)`` or ``(K,)``.
        settings: Settings of the scheduler.

    Raises:
        InputError: the levels of the table belong to another process.
    """
    process = settings.process
    own = settings.noise_process.alphas(Nodes(table.alphas, table.sigmas).ratios)
    divided = bool((table.alphas == 1).all())
    if not divided and not np.allclose(own, table.alphas, rtol=1e-6, atol=1e-9):
        raise InputError(
            f"the card's levels are not those of a {process} process: it is for another kind of network, so calibrate "
            "a card on this pipeline"
        )
    family = settings.noise_process.family
    if divided and family == "flow":
        raise InputError(
            "the card's states are divided by alpha, those of a flow are not: it is for another network, so calibrate "
            "a card on this pipeline"
        )
    moved = table.rescaled(own) if divided and family == "vp" else table
    return Plan(moved.chained(), np.asarray(times, np.float64)[: table.nfe], False, settings)


def _call_times(table: SolverTable, levels: Levels, settings: SchedulerSettings) -> tuple[Array, bool]:
    """Network times of all calls, shape ``(K,)``, and whether they are whole numbers.

    A call at one of the levels has its time. A call at an inner stage has the schedule's.
    """
    at_level = {
        state: time
        for state, time, sigma in zip(table.grid, levels.times.tolist(), levels.sigmas.tolist(), strict=False)
        if math.isclose(table.sigmas[state], sigma, rel_tol=1e-9)  # a solver may visit levels of its own
    }
    known = dict(zip(levels.sigmas.tolist(), levels.times.tolist(), strict=False))
    found, whole = [], levels.whole
    for call, (alpha, sigma) in enumerate(zip(table.alphas[:-1].tolist(), table.sigmas[:-1].tolist(), strict=True)):
        if call not in at_level and sigma not in known:
            known[sigma] = float(settings.times_of(sigma / alpha if alpha else np.inf))
            whole = False
        found.append(at_level[call] if call in at_level else known[sigma])
    return np.array(found), whole
