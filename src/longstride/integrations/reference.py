"""diffusers' own scheduler of a solver, made from a pipeline's settings: what these mean is asked of it.

Pipelines, and the settings in their ``scheduler_config.json``, mean what diffusers' schedulers make of them: spacing,
offsets, Karras and other levels, shifts that depend on the resolution. None of that is written again here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

import diffusers

from longstride.errors import InputError
from longstride.schedule import Schedule

__all__ = [
    "PROCESSES",
    "Process",
    "check_known",
    "has_class",
    "kind_of",
    "process_of",
    "reference_of",
    "schedule_of",
    "settings_of",
    "takes_clip",
]

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
