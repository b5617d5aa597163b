"""The levels of flows: diffusers' scheduler shifts them, by a number or by the resolution."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import part_of_ratio
from longstride.integrations.asking import ask
from longstride.integrations.scheduler_settings import SchedulerSettings

if TYPE_CHECKING:
    from longstride.integrations.run_levels import LevelRequest

__all__ = ["flow_levels"]

#: Levels through which a clock is read off diffusers' scheduler.
_DENSE = 1000
#: Settings with which a level is not moved alone, but with all levels of a run.
_TOGETHER = ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

#: Times, sigmas, whether the times are whole numbers, and the clock of the run; see ``Levels``.
FlowLevels = tuple[Array, Array, bool, tuple[tuple[float, float], ...]]


def flow_levels(settings: SchedulerSettings, request: LevelRequest) -> FlowLevels:
    """Times ``(N,)`` and sigmas ``(N + 1,)`` of a flow.

    Numbers that a pipeline gives mean what they mean to diffusers' scheduler of the solver. If it does not take them,
    ``sigmas`` are levels before the shift, as in ``UniPCMultistepScheduler``, and ``timesteps`` are what the network is
    told.

    Args:
        settings: Settings of the scheduler.
        request: What the pipeline asks for.

    Raises:
        InputError: diffusers' scheduler does not take what was asked for, or misses its shift.
    """
    theirs = settings.own_scheduler
    if request.timesteps is not None:
        settings.noise_process.check_times(request.timesteps)
    takes = inspect.signature(theirs.set_timesteps).parameters
    # DPM-Solver's classes take timesteps=, but for other processes alone.
    if (
        request.custom
        and not {"sigmas", "timesteps"} <= set(takes)
        and ("sigmas" not in takes or request.timesteps is not None)
    ):
        return _given(settings, request)
    sigmas_given = None if request.sigmas is None else np.asarray(request.sigmas)
    given = {"sigmas": sigmas_given, "timesteps": request.timesteps, "mu": request.mu}
    ask(theirs, request.steps, **given)
    if theirs.sigmas.isnan().any() and theirs.config.get("shift_terminal"):
        # One level at the top: there is nothing to stretch.
        stretched, theirs.config.shift_terminal = theirs.config.shift_terminal, None
        ask(theirs, request.steps, **given)
        theirs.config.shift_terminal = stretched
    times, sigmas = theirs.timesteps.double().numpy(), theirs.sigmas.double().numpy().copy()
    if settings.noise_process.backwards:
        sigmas = 1 - sigmas
    if sigmas[-1] >= sigmas[-2]:
        sigmas[-1] = 0.0
    return times, sigmas, not theirs.timesteps.is_floating_point(), _clock(settings, request)


def _given(settings: SchedulerSettings, request: LevelRequest) -> FlowLevels:
    """Levels that diffusers' scheduler does not take.

    Raises:
        InputError: there are both times and levels, or a shift for levels that nobody shifts by the resolution.
    """
    theirs, steps = settings.own_scheduler, settings.own_scheduler.config.num_train_timesteps
    if request.timesteps is not None and request.sigmas is not None:
        raise InputError("set_timesteps takes timesteps or sigmas with this scheduler, not both: leave one of them out")
    ask(theirs, len(request.timesteps or request.sigmas or ()), mu=request.mu)  # its own last level, and mu is checked
    repeats = bool(theirs.sigmas[-1] >= theirs.sigmas[-2])  # its last step has no length, and ours goes on to 0
    last, whole = 0.0 if repeats else float(theirs.sigmas[-1]), not theirs.timesteps.is_floating_point()
    if request.timesteps is not None:
        times = np.asarray(request.timesteps, np.float64)
        sigmas, whole = part_of_ratio(settings.schedule.ratio(times)), bool((times == np.round(times)).all())
    else:
        given = np.asarray(request.sigmas, np.float64)
        dynamic = theirs.config.get("use_dynamic_shifting") and request.mu is not None
        shift = math.exp(request.mu or 0.0) if dynamic else float(theirs.config.get("flow_shift") or 1.0)
        sigmas = shift * given / (1 + (shift - 1) * given)
        times = steps * sigmas
        times = np.floor(times + 1e-6) if whole else times  # as its own times
    return times, np.append(sigmas, last if last < sigmas[-1] else 0.0), whole, ()


def _clock(settings: SchedulerSettings, request: LevelRequest) -> tuple[tuple[float, float], ...]:
    """The clock of a run whose times are given beside levels that diffusers shifts, if the shift is one of each level.

    The network is then told the level before its shift.
    """
    theirs, times = settings.own_scheduler, request.timesteps
    if times is None or settings.noise_process.backwards or any(theirs.config.get(name) for name in _TOGETHER):
        return ()
    steps = theirs.config.num_train_timesteps
    given = np.asarray(times) / steps if request.sigmas is None else np.asarray(request.sigmas)
    if not np.allclose(steps * given, times, rtol=0, atol=1.0 if steps > 1 else 1e-3):
        return ()
    dense = np.linspace(1, 1 / _DENSE, _DENSE)
    ask(theirs, None, sigmas=dense, timesteps=steps * dense, mu=request.mu)
    parts = theirs.sigmas[:-1].double().numpy()
    usual = settings.noise_process
    return () if np.allclose(parts, dense, atol=1e-6) else usual.through(parts, steps * dense)
