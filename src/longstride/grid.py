"""Where the steps go: the noise levels that a sampler visits, from noisy to clean.

A grid of ``steps`` steps has ``steps + 1`` levels. With ``final="zero"`` there are ``steps`` positive levels and
the level 0: the last step takes all noise away. With ``final="sigma_min"`` the last level is ``sigma_min``: no network
call is spent on the last crumb of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError, unknown
from longstride.schedule import DiscreteVP, Schedule

__all__ = ["GRIDS", "LastLevel", "Spacing", "check_levels", "final_level", "grid", "spacing_of"]

LastLevel = Literal["zero", "sigma_min"]
Spacing = Literal["leading", "trailing", "linspace"]

GRIDS = ("karras", "log_snr", "uniform", "quadratic", "explicit")


def grid(
    name: str,
    steps: int | None = None,
    *,
    schedule: Schedule | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final: LastLevel = "zero",
    rho: float = 7.0,
    spacing: Spacing = "trailing",
    steps_offset: int = 0,
    sigmas: Sequence[float] | None = None,
) -> Array:
    r"""Noise levels of a sampler, strictly decreasing.

    ============  ==================================================================================
    ``karras``    even in :math:`(\sigma/\alpha)^{1/7}` (Karras et al., 2022, Eq. 5)
    ``log_snr``   even in :math:`\log(\sigma/\alpha)` (Lu et al., 2022)
    ``uniform``   even in the network's time, with the ``spacing`` of diffusers
    ``quadratic`` even in the square root of the network's time (Song et al., 2021, DDIM)
    ``explicit``  the levels in ``sigmas``
    ============  ==================================================================================

    Args:
        name: One of the names above.
        steps: Number of steps, at least 1; unused by ``explicit``.
        schedule: The model's schedule: gives the range, the frame and the map from times to levels. ``karras`` and
            ``log_snr`` need none if ``sigma_min`` and ``sigma_max`` are given.
        sigma_min: Least positive level, in the sampler's frame; default: the schedule's.
        sigma_max: First level; default: the schedule's.
        final: What the last level is: 0, or ``sigma_min``.
        rho: Takes the place of the 7 of ``karras``.
        spacing: Of ``uniform``: ``"leading"`` and ``"trailing"`` as in DDIM, ``"linspace"`` as in DPM-Solver.
        steps_offset: Added to the times of ``leading``.
        sigmas: Levels of ``explicit``, taken as they are.

    Returns:
        float64 array ``(steps + 1,)``.

    Raises:
        InputError: unknown name, too few steps, missing range, or levels that do not decrease.
    """
    if name not in GRIDS:
        raise unknown("grid", name, GRIDS)
    final_level(final)
    if name == "explicit":
        if sigmas is None:
            raise InputError("grid 'explicit' needs sigmas=[...], the levels from noisy to clean")
        return check_levels(np.asarray(sigmas, np.float64))
    if steps is None or steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    count = steps if final == "zero" else steps + 1
    if name in ("uniform", "quadratic"):
        if schedule is None:
            raise InputError(f"grid {name!r} is even in the network's time: pass schedule=")
        if sigma_min is not None or sigma_max is not None:
            raise InputError(f"grid {name!r} spans the schedule's whole range: drop sigma_min and sigma_max")
        levels = _timed(name, steps, count, schedule, final, spacing, steps_offset)
    else:
        low, high = _ratio_range(schedule, sigma_min, sigma_max)
        u = np.linspace(0.0, 1.0, count)
        if name == "karras":
            if not rho > 0:
                raise InputError(f"rho must be positive, got {rho}")
            ratios = (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        else:
            ratios = np.exp(np.log(high) + u * (np.log(low) - np.log(high)))
        ratios[0], ratios[-1] = high, low if count > 1 else high
        levels = _to_frame(schedule, ratios.astype(np.float64))
        if schedule is not None and not schedule.scaled:
            levels[0] = schedule.sigma_range[1] if sigma_max is None else sigma_max
    if final == "zero":
        return check_levels(np.append(levels, 0.0))
    return check_levels(levels)


def spacing_of(name: str, schedule: Schedule) -> str:
    """``name``, or if it is ``"auto"`` the model's usual grid: ``karras`` for the family ``ve``, else ``uniform``."""
    return ("karras" if schedule.family == "ve" else "uniform") if name == "auto" else name


def final_level(name: str) -> LastLevel:
    """``name`` itself, if it names a last level.

    Raises:
        InputError: unknown name.
    """
    if name not in get_args(LastLevel):
        raise unknown("final level", name, get_args(LastLevel))
    return cast(LastLevel, name)


def check_levels(levels: Array) -> Array:
    """``levels`` itself, if it is a list of at least two finite, strictly decreasing levels that end at 0 or above.

    Raises:
        InputError: the message names the first wrong level or pair.
    """
    if levels.ndim != 1 or len(levels) < 2:
        raise InputError(f"expected at least two noise levels in one list, got shape {levels.shape}")
    if not np.all(np.isfinite(levels)):
        where = int(np.flatnonzero(~np.isfinite(levels))[0])
        raise InputError(f"noise level {where} is {levels[where]}: levels must be finite numbers")
    rising = np.flatnonzero(np.diff(levels) >= 0)
    if len(rising):
        i = int(rising[0])
        what = "repeats" if levels[i] == levels[i + 1] else "is below"
        raise InputError(
            f"noise levels must fall strictly from noisy to clean: level {i} ({levels[i]:g}) {what} "
            f"level {i + 1} ({levels[i + 1]:g})"
        )
    if levels[-1] < 0:
        raise InputError(f"noise levels cannot be negative: the last one is {levels[-1]:g}")
    return levels


def _ratio_range(schedule: Schedule | None, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    if schedule is None:
        if sigma_min is None or sigma_max is None:
            raise InputError("give the range of noise levels: sigma_min= and sigma_max=, or schedule=")
        low, high = sigma_min, sigma_max
    else:
        low = schedule.sigma_range[0] if sigma_min is None else sigma_min
        high = schedule.sigma_range[1] if sigma_max is None else sigma_max
    if not 0 < low < high < np.inf:
        raise InputError(f"expected 0 < sigma_min < sigma_max, got {low:g} and {high:g}")
    if schedule is None or schedule.scaled:
        return low, high
    if high > 1:
        raise InputError(f"the schedule's levels lie between 0 and 1, got sigma_max = {high:g}")
    # At alpha = 0 the ratio is infinite: the inner levels are the levels of a grid from ratio 1000.
    ratio = float(schedule.frame_ratio(high))
    return float(schedule.frame_ratio(low)), 1e3 if np.isinf(ratio) else ratio


def _to_frame(schedule: Schedule | None, ratios: Array) -> Array:
    if schedule is None or schedule.scaled:
        return ratios
    return ratios / np.hypot(1, ratios) if schedule.family == "vp" else ratios / (1 + ratios)


def _timed(
    name: str, steps: int, count: int, schedule: Schedule, final: LastLevel, spacing: Spacing, steps_offset: int
) -> Array:
    low, high = schedule.pacing
    if name == "quadratic":
        u = low + (high - low) * np.linspace(1.0, 0.0, count) ** 2
        return schedule.frame_sigma(schedule.paced_time(u))
    discrete = isinstance(schedule, DiscreteVP) and steps <= high + 1
    if spacing == "linspace":
        u = np.linspace(low, high, steps + 1)[:0:-1]
        u = (
            np.round(u) if discrete and steps <= high else u
        )  # rounding would repeat a time if there are as many steps as times
    elif spacing == "trailing":
        width = high + 1 if discrete else high
        u = width - np.arange(steps) * width / steps
        u = np.round(u) - 1 if discrete else u
    elif spacing == "leading":
        width = (high + 1) // steps if discrete else high / steps
        u = np.arange(steps, dtype=np.float64)[::-1] * width + (steps_offset if discrete else low)
    else:
        raise unknown("spacing", spacing, ("leading", "trailing", "linspace"))
    levels = schedule.frame_sigma(schedule.paced_time(u))
    if final == "zero":
        return levels
    if levels[-1] <= schedule.sigma_range[0]:
        raise InputError(f"{spacing} spacing already ends at sigma_min: use final='zero', or spacing='trailing'")
    return np.append(levels, schedule.sigma_range[0])
