"""What ``set_timesteps`` decides: the plan of whole runs, and what runs if a run does not fit the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.integrations.counterparts import counterpart_of
from longstride.integrations.plan import Plan, classical_plan
from longstride.integrations.run_levels import LevelRequest, Levels
from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.table import SolverTable

__all__ = ["Setup"]


#: Runs the rest of a card's levels if the solver beside the card makes several calls per level.
_AFTER_CARDS = "dpmpp_2m"


@dataclass(frozen=True, eq=False)
class Setup:
    """What ``set_timesteps`` decided.

    Attributes:
        plan: Plan of whole runs, with K calls.
        levels: Levels that the classical solver visits.
        timesteps: What the network is told at every call, shape ``(K,)``.
        calibrated: Whether the plan is a card's.
        threshold: What is done to clean predictions, or None.
        request: What the pipeline asked for, or None if unknown.
    """

    plan: Plan
    levels: Levels
    timesteps: Tensor
    calibrated: bool
    threshold: Callable[[Tensor], Tensor] | None = None
    request: LevelRequest | None = None

    def __post_init__(self) -> None:
        # Before a compiler looks: they are made under a lock.
        _ = self.settings.schedule, self.plan.table.levels, self.plan.table.last_reader

    def __deepcopy__(self, memo: dict[int, Any]) -> Setup:
        return self  # nothing in it changes

    @staticmethod
    def of(
        plan: Plan,
        levels: Levels,
        calibrated: bool,
        device: str | torch.device | None,
        threshold: Callable[[Tensor], Tensor] | None = None,
        request: LevelRequest | None = None,
    ) -> Setup:
        """The setup of a plan, with its times on a device: int64 if they are whole numbers, float32 otherwise."""
        times = torch.from_numpy(plan.times).to(torch.int64 if plan.whole else torch.float32).to(device)
        return Setup(plan, levels, times, calibrated, threshold, request)

    @property
    def settings(self) -> SchedulerSettings:
        """Settings of the scheduler."""
        return self.plan.settings

    @property
    def end(self) -> int:
        """What a pipeline that counts ``order`` calls per step takes for the call after the last step."""
        return self.levels.steps * self.plan.order

    def calls_at(self, time: float) -> list[int]:
        """The network calls at a time, up to its rounding."""
        found: list[int] = np.flatnonzero(np.isclose(self.plan.times, time, rtol=1e-5, atol=1e-4)).tolist()
        return found

    def noise_levels(self, times: Array, call: int | None = None) -> tuple[Array, Array]:
        """Alpha and sigma at network times: the run's levels if it has the time, or else the schedule's.

        Args:
            times: Network times, shape ``(B,)``.
            call: The next call of the run, or None if nobody has said it. It tells apart calls at equal times.

        Returns:
            Alphas and sigmas, each of shape ``(B,)``.

        Raises:
            InputError: a time is outside of the schedule.
        """
        table, pairs = self.plan.table, []
        for time in times.tolist():  # rounding may put a run's levels off the schedule's
            at = self.calls_at(time)
            one = call if call in at else next((k for k in at if k in table.grid), at[0]) if at else None
            level = (
                self.settings.noise_levels(np.array(time)) if one is None else (table.alphas[one], table.sigmas[one])
            )
            pairs.append((float(level[0]), float(level[1])))
        alphas, sigmas = np.array(pairs, np.float64).reshape(-1, 2).T
        return alphas, sigmas

    def mismatch(self, call: int, shape: torch.Size, end: int | None = None) -> str | None:
        """Why the card is not for a run, or None if it is, or if there is no card.

        Args:
            call: Call that the run begins with.
            shape: Shape of the states, ``(B, *)``.
            end: Call before which the pipeline will stop, or None if it has not said it.
        """
        if not self.calibrated:
            return None
        if call:
            return f"this card is for whole runs, not for one that begins with call {call + 1}"
        if end is not None and end < self.plan.calls:
            return f"this card is for whole runs of {self.plan.calls} calls, the pipeline stops after {end}"
        size = tuple(shape[1:])
        if self.plan.shape is None or self.plan.shape == size:
            return None
        return f"this card is for states of shape {self.plan.shape}, not {size}"

    def classical_table(self, call: int) -> SolverTable:
        """The classical solver on the levels of the plan, from a call on.

        Heun and PNDM call the network at the end of a step, and again at the start of the next. A run that begins with
        the first of these calls makes both at the same state.

        Args:
            call: Call that the run begins with.

        Raises:
            InputError: the run begins inside a step.
        """
        solver, left = self.settings.counterpart.continues_as or self.settings.solver, self.plan.calls - call
        if self.calibrated and not counterpart_of(solver).one_call:
            solver = _AFTER_CARDS  # the pipeline makes one call per level of the card
        table, whole = classical_plan(self.settings, self.plan.levels_from(call), solver).table, self.plan.table
        if whole.sigmas[call] == table.sigmas[0]:
            table = table.lingering([1 + left - table.nfe, *(1 for _ in table.grid[1:])])
        if table.nfe != left:
            starts = ", ".join(str(state) for state in whole.grid[:-1])
            raise InputError(
                f"this run begins with call {call} (from 0), inside a step of {self.settings.solver}, whose steps "
                f"begin with the calls {starts}: choose another strength or number of steps, or a solver that makes "
                "one call per step"
            )
        return table
