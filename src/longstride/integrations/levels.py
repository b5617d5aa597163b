"""The levels that diffusers itself would visit: its own scheduler of a solver is asked.

Pipelines, and the settings in their ``scheduler_config.json``, mean what diffusers' schedulers make of them: spacing,
offsets, Karras and other levels, shifts that depend on the resolution. None of that is written again here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import diffusers
import numpy as np
from numpy.typing import ArrayLike, NDArray

from longstride.errors import InputError
from longstride.nodes import Nodes
from longstride.schedule import Schedule, alpha_of_ratio

__all__ = [
    "PROCESSES",
    "Levels",
    "Process",
    "check_known",
    "has_class",
    "kind_of",
    "levels_of",
    "process_of",
    "reference_of",
    "schedule_of",
    "settings_of",
    "takes_clip",
    "times_of",
]

Array = NDArray[np.float64]
#: How a pipeline's states are scaled: variance preserving, rectified flow, or EDM's preconditioning around them.
Process = Literal["vp", "flow", "edm"]
PROCESSES: tuple[Process, ...] = get_args(Process)

#: diffusers' class of a solver, for variance-preserving networks. Others have the levels of DDIM, or of Euler where
#: Karras or other levels are asked for, which DDIM does not know.
_CLASSES = {
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_3m": "DPMSolverMultistepScheduler",
    "dpm_solver_2m": "DPMSolverMultistepScheduler",
    "dpm_solver_3m": "DPMSolverMultistepScheduler",
    "dpmpp_2s": "DPMSolverSinglestepScheduler",
    "dpm_solver_2": "DPMSolverSinglestepScheduler",
    "dpm_solver_3": "DPMSolverSinglestepScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
#: Settings that diffusers' classes read where another class has left them.
_HIDDEN = ("sigma_min", "sigma_max", "rho")
#: Settings whose default is not taken over: DDIM's class clips pictures unless it is told not to.
_NOT_SHARED = ("clip_sample", "clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "predict_x0")
#: Settings of other methods that a class would refuse or change, although only its levels are asked for.
_NOT_LEVELS = ("solver_type", "algorithm_type", "solver_order", "thresholding", "lower_order_final", "solver_p")


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


def process_of(config: Mapping[str, Any]) -> Process:
    """What scale the pipeline of a scheduler's configuration works on.

    Read from the settings themselves: a configuration in memory does not say which class it is of.
    """
    has = {name for name, value in config.items() if value is not None}
    if ("use_flow_sigmas" in has and config["use_flow_sigmas"]) or config.get("prediction_type") == "flow_prediction":
        return "flow"
    if has & {"beta_start", "trained_betas", "beta_schedule"}:
        return "vp"
    if has >= {"sigma_data", "sigma_schedule"}:
        return "edm"
    return "flow" if has & {"shift", "base_shift"} else "vp"


def check_known(config: Mapping[str, Any]) -> None:
    """Make sure that a configuration is of a process that :func:`process_of` tells.

    Raises:
        InputError: it is of another one, which would be sampled wrongly.
    """
    has = {name for name, value in config.items() if value is not None}
    for name in ("snr_shift_scale", "snr", "s_churn"):
        if name in has:
            raise InputError(f"schedulers with {name} are of a process that longstride does not know")
    if config.get("timestep_type") == "continuous":
        raise InputError("timestep_type 'continuous' (Stable Video Diffusion) is not supported")
    known = {"beta_start", "trained_betas", "beta_schedule", "shift", "base_shift", "use_flow_sigmas"}
    if not has & known and not has >= {"sigma_data", "sigma_schedule"}:
        raise InputError(
            "cannot tell the process of this scheduler: expected betas (DDPM and its kind), a shift (flow matching) or "
            "EDM's settings"
        )


def kind_of(config: Mapping[str, Any], solver: str) -> str | None:
    """The class whose levels a configuration asks for, where diffusers has several for a solver."""
    return None if has_class(solver) or "interpolation_type" not in config else "EulerDiscreteScheduler"


def has_class(solver: str) -> bool:
    """Whether diffusers has a class for the solver whose levels it then visits, and no others."""
    return solver in _CLASSES


def takes_clip(solver: str) -> bool:
    """Whether diffusers' class of a solver clamps clean predictions where ``clip_sample`` asks for it."""
    return not has_class(solver) and solver != "heun"


def settings_of(config: Mapping[str, Any], solver: str, process: Process) -> dict[str, Any]:
    """What the settings that are None stand for, as far as they belong to the levels; pipelines read some of them."""
    reference = reference_of(config, solver, process).config
    unset = [name for name, value in config.items() if value is None and name in reference]
    return {name: reference[name] for name in unset if name not in (*_NOT_LEVELS, *_NOT_SHARED)}


def reference_of(config: Mapping[str, Any], solver: str, process: Process) -> Any:
    """diffusers' own scheduler for a solver, with the settings of ``config`` that it knows and that are not None."""
    given = {key: value for key, value in config.items() if value is not None}
    if given.get("levels"):
        name = str(given["levels"])
        if not hasattr(diffusers, name):
            raise InputError(f"levels must name a scheduler of diffusers {diffusers.__version__}, got {name!r}")
    elif process == "edm":
        name = "EDMEulerScheduler"
    elif process == "flow" and not given.get("use_flow_sigmas"):
        name = "FlowMatchEulerDiscreteScheduler"
    elif process == "flow":
        name = _CLASSES.get(solver, "DPMSolverMultistepScheduler")
    else:
        other = "EulerDiscreteScheduler" if solver == "heun" or any(map(given.get, _SPACED)) else "DDIMScheduler"
        name = _CLASSES.get(solver, other)
    if solver in ("pndm", "spndm"):
        given.setdefault("set_alpha_to_one", False)  # PNDMScheduler's own default
    made = getattr(diffusers, name)
    known = set(inspect.signature(made.__init__).parameters) - {"self", *_NOT_LEVELS}
    reference = made(**{key: value for key, value in given.items() if key in known})
    # Some read settings that are not their own, such as sigma_min and sigma_max for Karras levels.
    others = {key: value for key, value in given.items() if key in _HIDDEN and key not in known}
    reference.register_to_config(**others)
    return reference


def schedule_of(config: Mapping[str, Any], solver: str, process: Process) -> Schedule:
    """The process behind a scheduler's configuration."""
    return Schedule.from_diffusers(reference_of(config, solver, process))


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
