"""A scheduler for the converged run of a pipeline: many steps between the two ends of a shorter run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from longstride.calibration.reference.solve import converged_table, least_level
from longstride.families import alpha_of_ratio
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.setups import Setup
from longstride.nodes import Nodes

__all__ = ["ConvergedScheduler"]


class ConvergedScheduler(LongstrideScheduler):
    """Runs UniPC of order 3 with :attr:`many` calls between the first and the last level of the run that is asked for.

    A pipeline that is asked for 5 steps makes its preparations for 5 steps, and then as many calls as the scheduler has
    times. So both runs begin at the same level, from the same noise.

    Attributes:
        many: Network calls of the converged run.
    """

    many = 64

    def _setup_of(self, *asked: Any) -> Setup:
        setup = super()._setup_of(*asked)
        plan, settings = setup.plan, setup.settings
        # In the frame of a calibration, in which the levels of a converged solution are close where it bends.
        moved = settings.process == "vp" and settings.schedule.scaled
        table = plan.table.rescaled(1 / plan.table.alphas) if moved else plan.table
        fine = converged_table(table, self.many, least_level(settings.schedule, table))
        if moved:
            fine = fine.rescaled(alpha_of_ratio("vp", fine.sigmas))
        times = settings.times_of(Nodes(fine.alphas, fine.sigmas).ratios[:-1])
        times[0] = plan.times[0]
        told = torch.from_numpy(times).to(setup.timesteps.device, torch.float32)
        return replace(setup, plan=replace(plan, table=fine, times=times, whole=False), timesteps=told)
