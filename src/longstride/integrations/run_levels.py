"""The levels that a run visits: diffusers' own scheduler chooses them, or the pipeline gives them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import alpha_of_ratio
from longstride.integrations.own_scheduler import Process
from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.nodes import Nodes

__all__ = ["LevelRequest", "Levels", "levels_of"]


@dataclass(frozen=True)
class LevelRequest:
    """What ``set_timesteps`` was asked for.

    Attributes:
        steps: Number of steps, or None if the pipeline gives ``timesteps`` or ``sigmas``.
        timesteps: Network times of the steps, falling.
        sigmas: Levels, falling: sigma before its shift for a flow, ``sigma / alpha`` for other networks. If the last
            level is above 0, the scheduler's own last level follows.
        mu: Dynamic shift of a flow, see diffusers' ``use_dynamic_shifting``.
    """

    steps: int | None = None
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    mu: float | None = None

    @staticmethod
    def of(
        steps: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> LevelRequest:
        """The request of a pipeline. ``timesteps`` and ``sigmas`` win over ``steps``."""
        times, levels = (None if given is None else tuple(map(float, given)) for given in (timesteps, sigmas))
        return LevelRequest(steps if times is None and levels is None else None, times, levels, mu)

    @property
    def custom(self) -> bool:
        """Whether the pipeline gives times or levels of its own."""
        return self.timesteps is not None or self.sigmas is not None


@dataclass(frozen=True, eq=False)
class Levels:
    """Levels of N steps, on the scale of the pipeline's states.

    Attributes:
        times: What the network is told at the start of every step, shape ``(N,)``.
        alphas: Alphas of the process, shape ``(N + 1,)``.
        sigmas: Sigmas of the process, shape ``(N + 1,)``, falling.
        whole: Whether the times are whole numbers, as discrete schedulers of diffusers have them.
    """

    times: Array
    alphas: Array
    sigmas: Array
    whole: bool

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.times)

    @property
    def nodes(self) -> Nodes:
        """The levels as a solver's builder reads them."""
        return Nodes(self.alphas, self.sigmas)

    @property
    def ratios(self) -> Array:
        """``sigma / alpha``, shape ``(N + 1,)``; infinite if alpha is 0."""
        return self.nodes.ratios

    def after(self, i: int) -> Levels:
        """The levels from step ``i`` on."""
        return Levels(self.times[i:], self.alphas[i:], self.sigmas[i:], self.whole)


def levels_of(settings: SchedulerSettings, request: LevelRequest) -> Levels:
    """The levels of a run.

    Args:
        settings: Settings of the scheduler.
        request: What the pipeline asks for.

    Raises:
        InputError: nothing was asked for, too much was asked for, or the levels do not fall.
    """
    _check_request(request, settings.process)
    if settings.process == "flow":
        return _flow_levels(settings, request)
    return _given_levels(settings, request) if request.custom else _own_levels(settings, request.steps)


def _check_request(request: LevelRequest, process: Process) -> None:
    """Make sure that a request is complete.

    Raises:
        InputError: it is not.
    """
    steps = request.steps
    if steps is None and not request.custom:
        raise InputError("set_timesteps needs num_inference_steps, timesteps or sigmas")
    if request.timesteps is not None and request.sigmas is not None and process != "flow":
        raise InputError("set_timesteps takes timesteps or sigmas, not both: leave one of them out")
    if steps is not None and (not isinstance(steps, (int, np.integer)) or steps < 1):
        raise InputError(f"num_inference_steps must be a whole number of at least 1, got {steps!r}")
    for name, given in (("timesteps", request.timesteps), ("sigmas", request.sigmas)):
        if given is not None and len(given) == 0:
            raise InputError(f"{name} must hold at least one number, got none")


def _own_levels(settings: SchedulerSettings, steps: int | None) -> Levels:
    """The levels that diffusers' scheduler chooses by itself."""
    schedule, theirs = settings.schedule, settings.own_scheduler
    theirs.set_timesteps(steps)
    times, whole = theirs.timesteps.double().numpy(), not theirs.timesteps.is_floating_point()
    if not hasattr(theirs, "sigmas"):
        ratios = np.append(schedule.ratio(times), _last_ratio(settings))
    else:
        ratios = theirs.sigmas.double().numpy().copy()
        exact = schedule.ratio(times) if settings.process == "vp" else ratios[:-1]
        # diffusers' table is in float32. If a level is that of its time, the schedule knows it better.
        close = np.isclose(ratios[:-1], exact, rtol=1e-5)
        ratios[:-1] = np.where(close, exact, ratios[:-1])
    if ratios[-1] >= (1 - 1e-6) * ratios[-2]:
        ratios[-1] = 0.0  # some classes repeat their last level, and spend a call on a step of no length
    return _falling(times, ratios, settings.process, whole)


def _given_levels(settings: SchedulerSettings, request: LevelRequest) -> Levels:
    """The levels that the pipeline gives, by their times or by their ratios."""
    schedule, last = settings.schedule, _last_ratio(settings)
    if request.timesteps is not None:
        times = np.asarray(request.timesteps, np.float64)
        ratios = np.append(schedule.ratio(times), last)
        return _falling(times, ratios, settings.process, bool((times == np.round(times)).all()))
    given = np.asarray(request.sigmas, np.float64)
    ratios = given if given[-1] == 0 else np.append(given, last)
    return _falling(settings.times_of(ratios[:-1]), ratios, settings.process, False)


def _last_ratio(settings: SchedulerSettings) -> float:
    """``sigma / alpha`` at the end of the last step."""
    theirs = settings.own_scheduler
    if hasattr(theirs, "final_alpha_cumprod"):
        bar = float(theirs.final_alpha_cumprod)
        return math.sqrt((1 - bar) / bar)
    if theirs.config.get("final_sigmas_type", "sigma_min") == "zero":  # DEIS has no such setting
        return 0.0
    return float(settings.schedule.sigma_range[0])


def _flow_levels(settings: SchedulerSettings, request: LevelRequest) -> Levels:
    """The levels of a flow, which diffusers' scheduler shifts.

    Raises:
        InputError: diffusers' scheduler does not take what was asked for, or misses its shift.
    """
    theirs = settings.own_scheduler
    takes = inspect.signature(theirs.set_timesteps).parameters
    given = {"sigmas": request.sigmas, "timesteps": request.timesteps, "mu": request.mu}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if name not in takes:
            raise InputError(
                f"{type(theirs).__name__} takes no {name}=: leave it out, or use a flow-matching scheduler"
            )
    if theirs.config.get("use_dynamic_shifting") and request.mu is None and "mu" in takes:
        raise InputError(
            "this scheduler shifts its levels by the resolution (use_dynamic_shifting): pass mu= to set_timesteps, as "
            "diffusers' pipelines do"
        )
    theirs.set_timesteps(request.steps, **chosen)
    sigmas = theirs.sigmas.double().numpy().copy()
    if theirs.config.get("invert_sigmas"):
        raise InputError(
            "invert_sigmas is not supported, because the network's time would rise while the noise falls: set it to "
            "False"
        )
    if sigmas[-1] >= sigmas[-2]:
        sigmas[-1] = 0.0
    _check_falling(sigmas)
    times = theirs.timesteps.double().numpy()
    return Levels(times, 1 - sigmas, sigmas, not theirs.timesteps.is_floating_point())


def _falling(times: Array, ratios: Array, process: Process, whole: bool) -> Levels:
    """Levels from ``sigma / alpha``, shape ``(N + 1,)``.

    Raises:
        InputError: they do not fall.
    """
    _check_falling(ratios)
    alphas = alpha_of_ratio("ve" if process == "edm" else "vp", ratios)
    with np.errstate(invalid="ignore"):
        sigmas = np.where(np.isinf(ratios), 1.0, ratios * alphas)
    return Levels(times, alphas, sigmas, whole)


def _check_falling(levels: Array) -> None:
    if len(levels) < 2 or not (np.diff(levels) < 0).all() or not levels[-1] >= 0 or np.isnan(levels).any():
        shown = ", ".join(f"{level:.6g}" for level in levels[:12])
        raise InputError(f"the levels of the steps must fall, and be 0 at the least, got {shown}")
