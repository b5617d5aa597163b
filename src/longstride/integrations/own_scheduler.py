"""diffusers' own scheduler of a solver, made from a pipeline's settings.

A ``scheduler_config.json`` means what diffusers' schedulers make of it: spacing, offsets, Karras and other levels, and
shifts that depend on the resolution. Longstride asks diffusers' scheduler for all of this, and writes none of it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

import diffusers

from longstride.errors import InputError
from longstride.integrations.counterparts import counterpart_of

__all__ = ["METHOD_SETTINGS", "PROCESSES", "Process", "check_process", "levels_class_of", "own_scheduler", "process_of"]

#: How a pipeline's states are scaled: variance preserving, rectified flow, or EDM's preconditioning.
Process = Literal["vp", "flow", "edm"]
PROCESSES: tuple[Process, ...] = get_args(Process)

_EULER = "EulerDiscreteScheduler"
#: Settings that space the levels in ways that DDIM's class does not know, but Euler's does.
_SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
#: Settings that diffusers' classes read if another class has left them in the configuration.
_HIDDEN = ("sigma_min", "sigma_max", "rho")
#: Settings of other methods. A class that is only asked for its levels would refuse them, or change its levels.
METHOD_SETTINGS = ("solver_type", "algorithm_type", "solver_order", "thresholding", "lower_order_final", "solver_p")


def process_of(config: Mapping[str, Any]) -> Process:
    """The process of the pipeline that a scheduler's configuration belongs to.

    The settings tell it, because a configuration in memory does not say which class it belongs to.

    Args:
        config: Configuration of any diffusers scheduler.
    """
    has = _names_set(config)
    if ("use_flow_sigmas" in has and config["use_flow_sigmas"]) or config.get("prediction_type") == "flow_prediction":
        return "flow"
    if has & {"beta_start", "trained_betas", "beta_schedule"}:
        return "vp"
    if has >= {"sigma_data", "sigma_schedule"}:
        return "edm"
    return "flow" if has & {"shift", "base_shift"} else "vp"


def check_process(config: Mapping[str, Any]) -> None:
    """Make sure that :func:`process_of` can tell the process of a configuration.

    Args:
        config: Configuration of any diffusers scheduler.

    Raises:
        InputError: the configuration belongs to another process, which would be sampled wrongly.
    """
    has = _names_set(config)
    for name in ("snr_shift_scale", "snr", "s_churn"):
        if name in has:
            raise InputError(
                f"longstride does not know the process of schedulers with {name}: take a scheduler with betas, a "
                "flow-matching scheduler or an EDM scheduler"
            )
    if config.get("timestep_type") == "continuous":
        raise InputError(
            "timestep_type 'continuous' (Stable Video Diffusion) is not supported: expected a scheduler with discrete "
            "timesteps"
        )
    known = {"beta_start", "trained_betas", "beta_schedule", "shift", "base_shift", "use_flow_sigmas"}
    if not has & known and not has >= {"sigma_data", "sigma_schedule"}:
        raise InputError(
            "cannot tell the process of this scheduler: expected betas (DDPM and its kind), a shift (flow matching) or "
            "EDM's settings; pass process= if you know it"
        )


def levels_class_of(config: Mapping[str, Any], solver: str) -> str | None:
    """The class whose levels a configuration asks for, if diffusers has several classes for a solver.

    Args:
        config: Configuration of any diffusers scheduler.
        solver: Name of the solver.

    Returns:
        The name of the class, or None for the solver's default.
    """
    is_euler = "interpolation_type" in config  # only Euler's class has the setting
    return _EULER if is_euler and counterpart_of(solver).scheduler_class is None else None


def own_scheduler(config: Mapping[str, Any], solver: str, process: Process) -> Any:
    """diffusers' own scheduler of a solver, with the settings of ``config`` that it knows and that are not None.

    Args:
        config: Configuration of the scheduler.
        solver: Name of the solver.
        process: Process of the pipeline.

    Returns:
        A new diffusers scheduler. Its ``set_timesteps`` changes it, so threads must not share it.

    Raises:
        InputError: ``levels`` names no scheduler of diffusers.
    """
    counterpart = counterpart_of(solver)
    name = _class_name(config, solver, process)
    given = {**counterpart.defaults, **{key: value for key, value in config.items() if value is not None}}
    made = getattr(diffusers, name)
    known = set(inspect.signature(made.__init__).parameters) - {"self", *METHOD_SETTINGS}
    scheduler = made(**{key: value for key, value in given.items() if key in known})
    # Some classes read settings that are not their own, such as sigma_min and sigma_max for Karras levels.
    scheduler.register_to_config(**{key: value for key, value in given.items() if key in _HIDDEN and key not in known})
    return scheduler


def _class_name(config: Mapping[str, Any], solver: str, process: Process) -> str:
    """Name of the diffusers class whose levels a run visits.

    Raises:
        InputError: ``levels`` names no scheduler of diffusers.
    """
    counterpart = counterpart_of(solver)
    if config.get("levels"):
        name = str(config["levels"])
        if not hasattr(diffusers, name):
            raise InputError(f"levels must name a scheduler of diffusers {diffusers.__version__}, got {name!r}")
        return name
    if process == "edm":
        return "EDMEulerScheduler"
    if process == "flow" and not config.get("use_flow_sigmas"):
        return "FlowMatchEulerDiscreteScheduler"
    if process == "flow":
        return counterpart.scheduler_class or "DPMSolverMultistepScheduler"
    spaced = any(config.get(setting) for setting in _SPACED)
    return counterpart.scheduler_class or (_EULER if spaced else counterpart.levels_class)


def _names_set(config: Mapping[str, Any]) -> set[str]:
    """Names of the settings that are not None."""
    return {name for name, value in config.items() if value is not None}
