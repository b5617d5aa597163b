"""The levels that a run visits: diffusers' own scheduler chooses them, or the pipeline gives them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.integrations.asking import ask
from longstride.integrations.flow_levels import flow_levels
from longstride.integrations.noise_process import Process
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
            level is above 0, the scheduler's own last level follows. For EDM also what its class takes: positions in
            its own levels, rising from 0 to 1.
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
        """The request of a pipeline. ``timesteps`` and ``sigmas`` win over ``steps``.

        Raises:
            InputError: ``steps`` is not a whole number.
        """
        times, levels = (None if given is None else tuple(map(float, given)) for given in (timesteps, sigmas))
        shift = None if mu is None else float(mu)
        if times is not None or levels is not None:
            return LevelRequest(None, times, levels, shift)
        try:
            return LevelRequest(None if steps is None else operator.index(steps), None, None, shift)
        except TypeError as error:
            raise InputError(f"num_inference_steps must be a whole number of at least 1, got {steps!r}") from error

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
        sigmas: Sigmas of the process, shape ``(N + 1,)``, falling; a level may be repeated.
        whole: Whether the times are whole numbers, as discrete schedulers of diffusers have them.
        clock: What the network is told, if it is not what the process says; see :class:`SchedulerSettings`.
    """

    times: Array
    alphas: Array
    sigmas: Array
    whole: bool
    clock: tuple[tuple[float, float], ...] = ()

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.times)

    @property
    def nodes(self) -> Nodes:
        """The levels as a solver's builder reads them."""
        return Nodes(self.alphas, self.sigmas)

    @property
    def distinct(self) -> tuple[Nodes, list[int]]:
        """The levels without repetitions, and how often each of them is there."""
        first, counts = np.unique(-self.sigmas, return_index=True, return_counts=True)[1:]
        return Nodes(self.alphas[first], self.sigmas[first]), counts.tolist()

    @property
    def ratios(self) -> Array:
        """``sigma / alpha``, shape ``(N + 1,)``; infinite if alpha is 0."""
        return self.nodes.ratios

    def after(self, i: int) -> Levels:
        """The levels from step ``i`` on."""
        return Levels(self.times[i:], self.alphas[i:], self.sigmas[i:], self.whole, self.clock)


def levels_of(settings: SchedulerSettings, request: LevelRequest) -> Levels:
    """The levels of a run.

    Args:
        settings: Settings of the scheduler.
        request: What the pipeline asks for.

    Raises:
        InputError: nothing was asked for, too much was asked for, or the levels do not fall.
    """
    _check_request(request, settings.process)
    process = settings.noise_process
    if settings.process in ("flow", "ve"):
        times, sigmas, whole, clock = flow_levels(settings, request)
        _check_falling(sigmas)
        alphas = 1 - sigmas if settings.process == "flow" else np.ones_like(sigmas)
        levels = Levels(times, alphas, sigmas, whole, clock)
    else:
        own = not request.custom
        times, ratios, whole = _own_levels(settings, request.steps) if own else _given_levels(settings, request)
        _check_falling(ratios)
        alphas = process.alphas(ratios)
        with np.errstate(invalid="ignore"):
            levels = Levels(times, alphas, np.where(np.isinf(ratios), 1.0, ratios * alphas), whole)
    return levels if levels.clock else replace(levels, clock=process.clock_of(levels.ratios[:-1], levels.times))


def _check_request(request: LevelRequest, process: Process) -> None:
    """Make sure that a request is complete.

    Raises:
        InputError: it is not.
    """
    steps = request.steps
    if steps is None and not request.custom:
        raise InputError("set_timesteps needs num_inference_steps, timesteps or sigmas")
    if process not in ("flow", "ve"):
        if request.timesteps is not None and request.sigmas is not None:
            raise InputError("set_timesteps takes timesteps or sigmas, not both: leave one of them out")
        if request.mu is not None:
            raise InputError("mu= shifts the levels of flows, and this is another process: leave it out")
    if steps is not None and steps < 1:
        raise InputError(f"num_inference_steps must be a whole number of at least 1, got {steps!r}")
    for name, given in (("timesteps", request.timesteps), ("sigmas", request.sigmas)):
        if given is not None and len(given) == 0:
            raise InputError(f"{name} must hold at least one number, got none")
        if given is not None and not all(map(math.isfinite, given)):
            raise InputError(f"{name} must be finite, got {', '.join(f'{value:g}' for value in given[:12])}")


def _own_levels(settings: SchedulerSettings, steps: Any, **given: Any) -> tuple[Array, Array, bool]:
    """Times and ratios that diffusers' scheduler chooses by itself, and whether the times are whole numbers."""
    process, theirs = settings.noise_process, settings.own_scheduler
    ask(theirs, steps, **given)
    times, whole = theirs.timesteps.double().numpy(), not theirs.timesteps.is_floating_point()
    if not hasattr(theirs, "sigmas"):
        return times, _ended(np.append(process.schedule.ratio(times), _last_ratio(settings))), whole
    ratios = theirs.sigmas[: len(times) + 1].double().numpy().copy()  # log_linear interpolation makes one too many
    if process.sigma_data is not None:  # Stable Audio's clock is not that of the class that knows its levels
        return process.times_of(ratios[:-1]), _ended(ratios), False
    exact = process.schedule.ratio(times)
    # diffusers' table is in float32. If a level is that of its time, the schedule knows it better.
    close = np.isclose(ratios[:-1], exact, rtol=1e-5)
    ratios[:-1] = np.where(close, exact, ratios[:-1])
    return times, _ended(ratios), whole


def _ended(ratios: Array) -> Array:
    """Ratios that end at 0 if their last one is repeated: some classes spend their last call on a step of no length."""
    if ratios[-1] >= (1 - 1e-6) * ratios[-2]:
        ratios[-1] = 0.0
    return ratios


def _given_levels(settings: SchedulerSettings, request: LevelRequest) -> tuple[Array, Array, bool]:
    """The levels that the pipeline gives, by their times or by their ratios.

    Raises:
        InputError: a time is outside of the schedule.
    """
    process, last = settings.noise_process, _last_ratio(settings)
    if request.timesteps is not None:
        times = np.asarray(request.timesteps, np.float64)
        process.check_times(times)
        return times, np.append(process.schedule.ratio(times), last), bool((times == np.round(times)).all())
    given = np.asarray(request.sigmas, np.float64)
    if process.sigma_data is not None and len(given) > 1 and (np.diff(given) > 0).all() and given[-1] <= 1:
        return _own_levels(settings, len(given), sigmas=torch.from_numpy(given))
    ratios = given if given[-1] == 0 and len(given) > 1 else np.append(given, last)
    return process.times_of(ratios[:-1]), ratios, False


def _last_ratio(settings: SchedulerSettings) -> float:
    """``sigma / alpha`` at the end of the last step."""
    theirs = settings.own_scheduler
    if hasattr(theirs, "final_alpha_cumprod"):
        bar = float(theirs.final_alpha_cumprod)
        return math.sqrt((1 - bar) / bar)
    if theirs.config.get("final_sigmas_type", "sigma_min") == "zero":  # DEIS has no such setting
        return 0.0
    return float(settings.schedule.ratio(settings.schedule.t_range[0]))


def _check_falling(levels: Array) -> None:
    rise = np.diff(levels) > 0
    if len(levels) < 2 or rise.any() or not levels[-1] >= 0 or np.isnan(levels).any() or levels[0] == levels[-1]:
        shown = ", ".join(f"{level:.6g}" for level in levels[:12])
        raise InputError(f"the levels of the steps must fall, and be 0 at the least, got {shown}")
