"""What ``set_timesteps`` decides: the plan of whole runs, and what runs if a run does not fit the plan."""

from __future__ import annotations

from dataclasses import dataclass

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
        request: What the pipeline asked for, or None if unknown.
    """

    plan: Plan
    levels: Levels
    timesteps: Tensor
    calibrated: bool
    request: LevelRequest | None = None

    def __post_init__(self) -> None:
        # Before a compiler looks: they are made under a lock.
        _ = self.settings.schedule, self.plan.table.levels, self.plan.table.last_reader

    @staticmethod
    def of(
        plan: Plan,
        levels: Levels,
        calibrated: bool,
        device: str | torch.device | None,
        request: LevelRequest | None = None,
    ) -> Setup:
        """The setup of a plan, with its times on a device: int64 if they are whole numbers, float32 otherwise."""
        times = torch.from_numpy(plan.times).to(torch.int64 if plan.whole else torch.float32).to(device)
        return Setup(plan, levels, times, calibrated, request)

    @property
    def settings(self) -> SchedulerSettings:
        """Settings of the scheduler."""
        return self.plan.settings

    def noise_levels(self, times: Array) -> tuple[Array, Array]:
        """Alpha and sigma at network times: the run's levels if it has the time, or else the schedule's.

        Args:
            times: Network times, shape ``(B,)``.

        Returns:
            Alphas and sigmas, each of shape ``(B,)``.
        """
        alphas, sigmas = self.settings.noise_levels(times)
        told = self.timesteps.double().cpu().numpy()
        for n, time in enumerate(times):  # rounding may put a run's levels off the schedule's
            same = np.flatnonzero(told == time)
            if len(same):
                alphas[n], sigmas[n] = self.plan.table.alphas[same[-1]], self.plan.table.sigmas[same[-1]]
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

        Args:
            call: Call that the run begins with.

        Raises:
            InputError: the solver makes another number of calls from there than the pipeline.
        """
        solver, left = self.settings.counterpart.continues_as or self.settings.solver, self.plan.calls - call
        if self.calibrated and not counterpart_of(solver).one_call:
            solver = _AFTER_CARDS  # the pipeline makes one call per level of the card
        plan = classical_plan(self.settings, self.plan.levels_from(call), solver)
        if plan.calls != left:
            raise InputError(
                f"{solver} makes {plan.calls} calls from here, the pipeline {left}: begin with a call that is a "
                f"multiple of {self.plan.order}"
            )
        return plan.table
