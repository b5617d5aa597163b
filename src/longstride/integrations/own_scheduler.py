"""diffusers' own scheduler of a solver, made from a pipeline's settings.

A ``scheduler_config.json`` means what diffusers' schedulers make of it: spacing, offsets, Karras and other levels, and
shifts that depend on the resolution. Longstride asks diffusers' scheduler for all of this, and writes none of it again.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from longstride.errors import InputError
from longstride.integrations.counterparts import counterpart_of
from longstride.integrations.noise_process import PRECONDITIONED, Process
from longstride.integrations.origins import check_origin

__all__ = ["METHOD_SETTINGS", "check_process", "is_continuous", "levels_class_of", "own_scheduler", "process_of"]

_EULER = "EulerDiscreteScheduler"
_FLOW = "FlowMatchEulerDiscreteScheduler"
#: Settings that space the levels in ways that DDIM's class does not know, but Euler's does.
_SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
#: Settings that diffusers' classes read if another class has left them in the configuration.
_HIDDEN = ("sigma_min", "sigma_max", "rho")
#: Settings of other methods. A class that is only asked for its levels would refuse them, or change its levels.
METHOD_SETTINGS = ("solver_type", "algorithm_type", "solver_order", "thresholding", "lower_order_final", "solver_p")
#: Settings that change the table of a VP process. Not every class of diffusers knows them.
_OF_TABLES = ("rescale_betas_zero_snr", "snr_shift_scale")
#: Last product of ``1 - beta`` in place of 0, where diffusers' classes divide by it.
_NEARLY_ZERO = 2.0**-24


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
        # The one kind of network whose pipeline combines the output with states of Euler's scale.
        is_euler = "interpolation_type" in has and config.get("prediction_type") in ("sample", "original_sample")
        return "euler" if is_euler else "vp"
    if has >= {"sigma_data", "sigma_schedule"}:
        # Stable Audio's class has a solver's order, and no algorithms to choose from.
        return "edm_atan" if "solver_order" in has and "algorithm_type" not in config else "edm"
    if not has & {"shift", "base_shift"}:
        return "vp"
    return "ve" if _greatest_level(config) > 1 else "flow"


def _greatest_level(config: Mapping[str, Any]) -> float:
    """The greatest level of a flow-matching scheduler; above 1 the states cannot be those of a flow."""
    theirs = own_scheduler(config, "ddim", "flow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.set_timesteps(2, **({"mu": 1.0} if theirs.config.get("use_dynamic_shifting") else {}))
    return float(theirs.sigmas.max())


def check_process(config: Mapping[str, Any]) -> None:
    """Make sure that :func:`process_of` can tell the process of a configuration.

    Args:
        config: Configuration of any diffusers scheduler.

    Raises:
        InputError: the configuration belongs to another process, which would be sampled wrongly.
    """
    check_origin(config)
    has = _names_set(config)
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


def is_continuous(config: Mapping[str, Any]) -> bool:
    """Whether the network of a VP process is told ``ln(sigma / alpha) / 4``, as Euler's class decides it."""
    return config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"


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
    name = _class_name(config, solver, process)
    counterpart, said = counterpart_of(solver), {key: value for key, value in config.items() if value is not None}
    given = {**counterpart.defaults, **said, **counterpart.settings}
    scheduler = _made(name, given)
    missing = [setting for setting in _OF_TABLES if given.get(setting) and setting not in scheduler.config]
    if missing and hasattr(scheduler, "alphas_cumprod"):
        shifted = "snr_shift_scale" in given
        _put_table(scheduler, _made("CogVideoXDDIMScheduler" if shifted else "DDIMScheduler", given).alphas_cumprod)
        scheduler.register_to_config(**{setting: given[setting] for setting in missing})
    return scheduler


def _made(name: str, given: Mapping[str, Any]) -> Any:
    """A scheduler of diffusers, with the settings that its class knows."""
    kind = getattr(diffusers, name)
    known = set(inspect.signature(kind.__init__).parameters) - {"self", *METHOD_SETTINGS}
    scheduler = kind(**{key: value for key, value in given.items() if key in known})
    # Some classes read settings that are not their own, such as sigma_min and sigma_max for Karras levels.
    scheduler.register_to_config(**{key: value for key, value in given.items() if key in _HIDDEN and key not in known})
    return scheduler


def _put_table(scheduler: Any, products: torch.Tensor) -> None:
    """Let a scheduler have the table of the process in place of the table that its class has made.

    Args:
        scheduler: A scheduler of diffusers; it is changed.
        products: Products of ``1 - beta``, shape ``(T,)``.
    """
    table = products.float().clone()
    table[-1] = table[-1].clamp(min=_NEARLY_ZERO)
    scheduler.alphas_cumprod = table
    if hasattr(scheduler, "lambda_t"):
        scheduler.alpha_t, scheduler.sigma_t = table.sqrt(), (1 - table).sqrt()
        scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = ((1 - table) / table).sqrt()


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
    if process in PRECONDITIONED:
        return "EDMEulerScheduler"
    if process == "ve" or (process == "flow" and not config.get("use_flow_sigmas")):
        return _FLOW
    if process == "flow":
        return counterpart.scheduler_class or "DPMSolverMultistepScheduler"
    if is_continuous(config):  # no other class knows such times
        return _EULER
    spaced = any(config.get(setting) for setting in _SPACED)
    if counterpart.scheduler_class is None and not spaced and config.get("snr_shift_scale"):
        return "CogVideoXDDIMScheduler"
    return counterpart.scheduler_class or (_EULER if spaced else counterpart.levels_class)


def _names_set(config: Mapping[str, Any]) -> set[str]:
    """Names of the settings that are not None."""
    return {name for name, value in config.items() if value is not None}
