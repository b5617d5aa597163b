"""What a scheduler's configuration says, as diffusers' own scheduler of the solver reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike
from torch import Tensor

from longstride.arrays import Array
from longstride.denoiser import Denoiser, as_denoiser
from longstride.errors import InputError
from longstride.integrations.clocks import Clocked, Retimed
from longstride.integrations.counterparts import Counterpart, counterpart_of
from longstride.integrations.noise_process import PRECONDITIONED, SCALED, NoiseProcess, Process
from longstride.integrations.own_scheduler import METHOD_SETTINGS, is_continuous, own_scheduler, process_of
from longstride.nodes import Nodes
from longstride.schedule import Schedule, flow_of_times
from longstride.solvers import build
from longstride.table import SolverTable
from longstride.thresholds import Clamp, DynamicThreshold

if TYPE_CHECKING:
    from longstride.integrations.run_levels import Levels

__all__ = ["SchedulerSettings", "assigned_to"]


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
        process: Name of the process of the pipeline, which scales its states.
        made_from: The configuration that the scheduler was made from, if somebody has assigned settings since, as in
            ``scheduler.config.flow_shift = 8``.
        clock: Levels and times that a run tells its network, as ``sigma / (alpha + sigma)`` and the time, if they are
            not the times of the process.
    """

    config: Mapping[str, Any]
    solver: str
    process: Process
    made_from: Mapping[str, Any] | None = None
    clock: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def of(config: Mapping[str, Any]) -> SchedulerSettings:
        """The settings of a :class:`~longstride.integrations.diffusers.LongstrideScheduler`.

        Args:
            config: Its configuration, with ``solver`` and ``process``.
        """
        assigned = assigned_to(config)
        if not assigned:
            return SchedulerSettings(config, config["solver"], config["process"])
        told, process = {**config, **assigned}, config["process"]
        if process == process_of(config):  # nobody has said another: it follows the settings
            process = process_of(told)
        return SchedulerSettings(told, told["solver"], assigned.get("process", process), config)

    def as_solver(self, solver: str) -> SchedulerSettings:
        """The same settings for another solver, without the defaults that were taken over for this one."""
        defaults = set(self.config.get("_use_default_values", ())) - set(self._assigned)
        said, made_from = (
            given and {name: value for name, value in given.items() if name not in defaults}
            for given in (self.config, self.made_from)
        )
        return SchedulerSettings(said or {}, solver, self.process, made_from, self.clock)

    def with_clock(self, clock: tuple[tuple[float, float], ...]) -> SchedulerSettings:
        """The same settings for a run that tells its network other times; see :attr:`clock`."""
        return self if clock == self.clock else replace(self, clock=clock)

    @cached_property
    def own_scheduler(self) -> Any:
        """diffusers' own scheduler of the solver, built on first use.

        Raises:
            InputError: ``levels`` names no scheduler of diffusers.
        """
        made = own_scheduler(self.made_from or self.config, self.solver, self.process)
        for name, value in self._assigned.items():  # diffusers' class reads some settings once, and some at every call
            setattr(made.config, name, value)
        return made

    @property
    def _assigned(self) -> dict[str, Any]:
        """What was assigned since the scheduler was made."""
        was = self.made_from
        if was is None:
            return {}
        return {name: value for name, value in self.config.items() if name not in was or not _same(was[name], value)}

    @cached_property
    def noise_process(self) -> NoiseProcess:
        """Scale of the pipeline's states, clock of its network, and what the network predicts.

        Raises:
            InputError: diffusers' scheduler describes no schedule, or the network predicts something that the process
                does not allow.
        """
        process = NoiseProcess(
            self.process,
            self._usual_schedule,
            self.prediction,
            self.sigma_data if self.process in PRECONDITIONED else None,
            backwards=self.process == "flow" and bool(self.config.get("invert_sigmas")),
        )
        if not self.clock:
            return process
        return replace(process, schedule=Retimed(process.family, process.schedule, self.clock))

    @property
    def _usual_schedule(self) -> Schedule:
        """The schedule that the network was trained with."""
        theirs, name = self.own_scheduler.config, self.process
        steps = float(theirs.get("num_train_timesteps", 1000))
        if name in PRECONDITIONED:
            return Clocked("ve", "log" if name == "edm" else "atan", float(theirs.sigma_min), float(theirs.sigma_max))
        if name == "ve":
            low, high = (float(theirs.get(end) or usual) for end, usual in (("sigma_min", 0.002), ("sigma_max", 80.0)))
            return Clocked("ve", "sigma", low, high, steps)
        if name == "flow" and self.config.get("invert_sigmas"):
            return Clocked("flow", "clean", 1.0 / (steps - 1) if steps > 1 else 1e-3, math.inf, steps)
        if name == "flow":
            return flow_of_times(steps)
        if is_continuous(self.config):
            low, high = (float(((1 - bar) / bar) ** 0.5) for bar in self.own_scheduler.alphas_cumprod[[0, -1]].double())
            return Clocked("vp", "log", float(theirs.sigma_min or low), float(theirs.sigma_max or high))
        table = Schedule.from_diffusers(self.own_scheduler)
        return Retimed("ve", table) if name == "euler" else table

    @property
    def schedule(self) -> Schedule:
        """Levels and times of the network, on the scale of the pipeline's states.

        Raises:
            InputError: diffusers' scheduler describes no schedule.
        """
        return self.noise_process.schedule

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
            Network times in the same shape.
        """
        return self.noise_process.times_of(ratios)

    def noise_levels(self, times: Array) -> tuple[Array, Array]:
        """Alpha and sigma at network times, on the scale of the pipeline's states.

        Args:
            times: Network times, shape ``(B,)``.

        Returns:
            Alphas and sigmas, each of shape ``(B,)``.

        Raises:
            InputError: a time is outside of the schedule.
        """
        return self.noise_process.noise_levels(times)

    def first_scale(self, sigma: float) -> float:
        """What standard normal noise is multiplied by at the start of a run, as in diffusers.

        Args:
            sigma: Greatest level of the run, or of the schedule.
        """
        if self.process == "euler" and self.config.get("timestep_spacing") != "leading":
            return sigma  # as Euler's class
        return float((sigma**2 + 1) ** 0.5) if self.process in SCALED else 1.0

    def denoiser(
        self,
        network: Callable[..., Any],
        *,
        condition: Mapping[str, Any] | None = None,
        threshold: Callable[[Tensor], Tensor] | None = None,
    ) -> Denoiser:
        """A pipeline as a denoiser, in the frame of :attr:`schedule`.

        Args:
            network: Called as ``network(x, times, **condition)`` with states on the pipeline's scale, shape ``(B, *)``,
                and times ``(B,)``. It returns what the pipeline hands to ``step``.
            condition: Keyword arguments of every call.
            threshold: Applied to clean predictions, or None.

        Raises:
            InputError: the pipeline thresholds predictions of another process than a variance-preserving one.
        """
        if isinstance(threshold, DynamicThreshold) and self.process != "vp":
            raise InputError("thresholding is for pixels of variance-preserving networks: set it to False")
        weights = self.noise_process.clean_weights
        return as_denoiser(network, self.schedule, weights, condition=condition, threshold=threshold)

    def base_table(self, levels: Levels, solver: str = "ddim", **options: Any) -> SolverTable:
        """A solver on the levels of a run, in the frame of :meth:`denoiser`.

        Args:
            levels: Levels of the run.
            solver: Name of the solver.
            **options: Its options, as for :func:`longstride.build`.
        """
        distinct, counts = levels.distinct
        if self.schedule.scaled:
            table = build(solver, distinct.ratios, schedule=self.schedule, **options)
        else:
            table = build(solver, distinct.sigmas, alphas=distinct.alphas, schedule=self.schedule, **options)
        return table if max(counts) == 1 else table.lingering(counts)

    def frame_alpha(self, levels: Levels) -> float:
        """What the first states of a pipeline are divided by, to be in the frame of :meth:`denoiser`."""
        return float(levels.alphas[0]) if self.schedule.scaled else 1.0


def assigned_to(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that somebody has assigned to a configuration of diffusers as attributes, which is not as its items.

    Args:
        config: The configuration.
    """
    return {
        name: value
        for name, value in getattr(config, "__dict__", {}).items()
        if not name.startswith("_") and not (name in config and _same(config[name], value))
    }


def _same(one: Any, other: Any) -> bool:
    return one is other or repr(one) == repr(other)
