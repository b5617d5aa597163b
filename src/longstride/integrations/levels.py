"""The levels that a run visits, on the pipeline's own scale: those of diffusers' scheduler, or given ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longstride.errors import InputError
from longstride.families import alpha_of_ratio
from longstride.integrations.reference import Process, reference_of
from longstride.nodes import Nodes
from longstride.schedule import Schedule

__all__ = ["Levels", "levels_of", "noise_levels", "times_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """Levels of the steps, on the pipeline's own scale.

    Attributes:
        times: What the network is told at the start of every step, shape ``(N,)``.
        alphas: Shape ``(N + 1,)``.
        sigmas: Shape ``(N + 1,)``, falling.
        whole: Whether the times are whole numbers, as diffusers' own scheduler has them.
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
    def ratios(self) -> Array:
        """``sigma / alpha``, shape ``(N + 1,)``; infinite where alpha is 0."""
        return Nodes(self.alphas, self.sigmas).ratios

    def after(self, i: int) -> Levels:
        """Those from step ``i`` on."""
        return Levels(self.times[i:], self.alphas[i:], self.sigmas[i:], self.whole)


def levels_of(
    config: Mapping[str, Any],
    solver: str,
    process: Process,
    steps: int | None,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> Levels:
    """The levels of a run.

    Args:
        config: Of the scheduler.
        solver: Name of the solver.
        process: See :data:`Process`.
        steps: Number of steps, or None where ``timesteps`` or ``sigmas`` are given.
        timesteps: Network times of the steps, falling.
        sigmas: ``sigma / alpha`` of a variance-preserving network, sigma of a flow before its shift; falling. The last
            may be 0; otherwise the scheduler's own last level follows.
        mu: Dynamic shift of a flow.

    Raises:
        InputError: none or too many of them, or levels that do not fall.
    """
    if steps is None and timesteps is None and sigmas is None:
        raise InputError("set_timesteps needs num_inference_steps, timesteps or sigmas")
    if timesteps is not None and sigmas is not None and process != "flow":
        raise InputError("set_timesteps takes timesteps or sigmas, not both")
    if steps is not None and (not isinstance(steps, (int, np.integer)) or steps < 1):
        raise InputError(f"num_inference_steps must be a whole number of at least 1, got {steps!r}")
    for name, one in (("timesteps", timesteps), ("sigmas", sigmas)):
        if one is not None and len(one) == 0:
            raise InputError(f"{name} must hold at least one number")
    reference = reference_of(config, solver, process)
    if process == "flow":
        return _flow(reference, steps, timesteps, sigmas, mu)
    if timesteps is None and sigmas is None:
        return _own(reference, process, steps)
    schedule = Schedule.from_diffusers(reference)
    last = _last_ratio(reference, process)
    if timesteps is not None:
        times = np.asarray(timesteps, np.float64)
        ratios = np.append(schedule.ratio(times), last)
        whole = bool((times == np.round(times)).all())
    else:
        given = np.asarray(sigmas, np.float64)
        ratios = given if given[-1] == 0 else np.append(given, last)
        times, whole = times_of(schedule, process, ratios[:-1]), False
    return _checked(times, ratios, process, whole)


def _own(reference: Any, process: Process, steps: int | None) -> Levels:
    """As diffusers' scheduler has them by itself."""
    reference.set_timesteps(steps)
    times = reference.timesteps.double().numpy()
    schedule, whole = Schedule.from_diffusers(reference), not reference.timesteps.is_floating_point()
    if not hasattr(reference, "sigmas"):
        ratios = np.append(schedule.ratio(times), _last_ratio(reference, process))
    else:
        ratios = reference.sigmas.double().numpy().copy()
        exact = schedule.ratio(times) if process == "vp" else ratios[:-1]
        # Its table is in float32; where the level is that of the time, it is known better.
        close = np.isclose(ratios[:-1], exact, rtol=1e-5)
        ratios[:-1] = np.where(close, exact, ratios[:-1])
    if ratios[-1] >= (1 - 1e-6) * ratios[-2]:
        ratios[-1] = 0.0  # some repeat their last level: one call for a step of no length
    return _checked(times, ratios, process, whole)


def _last_ratio(reference: Any, process: Process) -> float:
    """``sigma / alpha`` where the last step ends."""
    if hasattr(reference, "final_alpha_cumprod"):
        bar = float(reference.final_alpha_cumprod)
        return math.sqrt((1 - bar) / bar)
    if reference.config.get("final_sigmas_type", "sigma_min") == "zero":  # DEIS has no such setting
        return 0.0
    return float(Schedule.from_diffusers(reference).sigma_range[0])


def _flow(
    reference: Any,
    steps: int | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    mu: float | None,
) -> Levels:
    takes = inspect.signature(reference.set_timesteps).parameters
    given = {"sigmas": sigmas, "timesteps": timesteps, "mu": mu}
    for name in [name for name, value in given.items() if value is not None and name not in takes]:
        raise InputError(f"{type(reference).__name__} takes no {name}=: leave it out, or use a flow-matching scheduler")
    chosen = {name: value for name, value in given.items() if value is not None}
    if reference.config.get("use_dynamic_shifting") and mu is None and "mu" in takes:
        raise InputError(
            "this scheduler shifts its levels by the resolution (use_dynamic_shifting): pass mu= to set_timesteps, as "
            "diffusers' pipelines do"
        )
    reference.set_timesteps(steps, **chosen)
    levels = reference.sigmas.double().numpy().copy()
    if reference.config.get("invert_sigmas"):
        raise InputError("invert_sigmas is not supported: the network's time would rise while the noise falls")
    if levels[-1] >= levels[-2]:
        levels[-1] = 0.0
    times = reference.timesteps.double().numpy()
    _check_falling(levels)
    return Levels(times, 1 - levels, levels, not reference.timesteps.is_floating_point())


def times_of(schedule: Schedule, process: Process, ratios: ArrayLike) -> Array:
    """What the network is told at ``sigma / alpha``; EDM's preconditioning says a quarter of its logarithm."""
    return 0.25 * np.log(ratios) if process == "edm" else schedule.time_of_ratio(ratios)


def noise_levels(schedule: Schedule, process: Process, times: Array) -> tuple[Array, Array]:
    """Alpha and sigma, on the pipeline's scale, at network times ``(B,)``."""
    if process == "edm":
        return np.ones_like(times), np.exp(4 * times)
    return np.array(schedule.alpha(times)), np.array(schedule.sigma(times))


def _checked(times: Array, ratios: Array, process: Process, whole: bool) -> Levels:
    _check_falling(ratios)
    alphas = alpha_of_ratio("ve" if process == "edm" else "vp", ratios)
    with np.errstate(invalid="ignore"):
        sigmas = np.where(np.isinf(ratios), 1.0, ratios * alphas)
    return Levels(times, alphas, sigmas, whole)


def _check_falling(levels: Array) -> None:
    if len(levels) < 2 or not (np.diff(levels) < 0).all() or not levels[-1] >= 0 or np.isnan(levels).any():
        shown = ", ".join(f"{level:.6g}" for level in levels[:12])
        raise InputError(f"the levels of the steps must fall, and be 0 at the least, got {shown}")
