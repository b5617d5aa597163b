"""What a scheduler's configuration says, as diffusers' own scheduler of the solver reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from longstride.arrays import Array
from longstride.denoiser import Clamp, DynamicThreshold
from longstride.integrations.counterparts import Counterpart, counterpart_of
from longstride.integrations.own_scheduler import METHOD_SETTINGS, Process, own_scheduler
from longstride.nodes import Nodes
from longstride.schedule import Schedule

__all__ = ["SchedulerSettings"]


#: Settings whose default is not taken over: DDIM's class clips pictures unless it is told not to.
_NOT_SHARED = ("clip_sample", "clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "predict_x0")


@dataclass(frozen=True, eq=False)
class SchedulerSettings:
    """The settings of one scheduler, with the solver and the process that they are for.

    It is made once per setup, by the thread that sets it up. Two threads must not ask it for levels at a time, because
    :attr:`own_scheduler` changes with the levels that it is asked for.

    Attributes:
        config: Configuration of the scheduler. None stands for the default of diffusers' class.
        solver: Name of the solver.
        process: Process of the pipeline, which scales its states.
    """

    config: Mapping[str, Any]
    solver: str
    process: Process

    @staticmethod
    def of(config: Mapping[str, Any]) -> SchedulerSettings:
        """The settings of a :class:`~longstride.integrations.diffusers.LongstrideScheduler`.

        Args:
            config: Its configuration, with ``solver`` and ``process``.
        """
        return SchedulerSettings(config, config["solver"], config["process"])

    def as_solver(self, solver: str) -> SchedulerSettings:
        """The same settings for another solver, without the defaults that were taken over for this one."""
        defaults = self.config.get("_use_default_values", ())
        said = {name: value for name, value in self.config.items() if name not in defaults}
        return SchedulerSettings(said, solver, self.process)

    @cached_property
    def own_scheduler(self) -> Any:
        """diffusers' own scheduler of the solver, built on first use.

        Raises:
            InputError: ``levels`` names no scheduler of diffusers.
        """
        return own_scheduler(self.config, self.solver, self.process)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of the network, built on first use.

        Raises:
            InputError: diffusers' scheduler describes no schedule.
        """
        return Schedule.from_diffusers(self.own_scheduler)

    @property
    def counterpart(self) -> Counterpart:
        """What diffusers has for the solver."""
        return counterpart_of(self.solver)

    @property
    def defaults(self) -> dict[str, Any]:
        """What diffusers' class makes of the settings that are None, if they belong to the levels."""
        theirs = self.own_scheduler.config
        unset = [name for name, value in self.config.items() if value is None and name in theirs]
        return {name: theirs[name] for name in unset if name not in (*METHOD_SETTINGS, *_NOT_SHARED)}

    @property
    def prediction(self) -> str:
        """What the network predicts, by diffusers' name."""
        return str(self.config.get("prediction_type") or ("flow_prediction" if self.process == "flow" else "epsilon"))

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data in EDM's preconditioning."""
        return float(self.config.get("sigma_data") or 0.5)

    def threshold(self, *, calibrated: bool) -> Callable[[Tensor], Tensor] | None:
        """What is done to clean predictions, or None.

        Args:
            calibrated: Whether a card runs. The card was calibrated with ``clip_sample``, even if diffusers' class of
                the solver does not know it.
        """
        config = self.config
        if config.get("thresholding"):
            most = config.get("sample_max_value") or 1.0
            return DynamicThreshold(config.get("dynamic_thresholding_ratio") or 0.995, most)
        if config.get("clip_sample") and (calibrated or self.counterpart.clips):
            return Clamp(float(config.get("clip_sample_range") or 1.0))
        return None

    def solver_options(self, solver: str, nodes: Nodes) -> dict[str, Any]:
        """Options of a solver, as :func:`longstride.build` takes them.

        Args:
            solver: Name of the solver; it may be another one than that of the settings.
            nodes: Levels that the solver visits, ``(N + 1,)``.

        Returns:
            The options that diffusers' class reads from the settings. ``solver_options`` win over them.
        """
        return {**counterpart_of(solver).options(self.config, nodes), **(self.config.get("solver_options") or {})}

    def times_of(self, ratios: ArrayLike) -> Array:
        """What the network is told at noise levels.

        Args:
            ratios: ``sigma / alpha``, of any shape.

        Returns:
            Network times in the same shape. EDM's network is told a quarter of the level's logarithm.
        """
        return 0.25 * np.log(ratios) if self.process == "edm" else self.schedule.time_of_ratio(ratios)

    def noise_levels(self, times: Array) -> tuple[Array, Array]:
        """Alpha and sigma at network times, on the scale of the pipeline's states.

        Args:
            times: Network times, shape ``(B,)``.

        Returns:
            Alphas and sigmas, each of shape ``(B,)``.
        """
        if self.process == "edm":
            return np.ones_like(times), np.exp(4 * times)
        return np.array(self.schedule.alpha(times)), np.array(self.schedule.sigma(times))
