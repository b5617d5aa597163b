"""Which class of diffusers a configuration belongs to, and what of the configuration somebody has said.

A configuration in memory does not tell its class, but the names of its settings do. What belongs to no class whose
process is known is refused: it would be sampled as its neighbour.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils import DummyObject

from longstride.errors import InputError

__all__ = ["READABLE", "check_origin", "class_of", "named", "said"]

#: Classes whose process is known.
READABLE = (
    *(kind.name for kind in KarrasDiffusionSchedulers),
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "CosineDPMSolverMultistepScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "SASolverScheduler",
)
#: Why the process of other classes is not that of their neighbours.
_REASONS = {
    "LCMScheduler": "its networks jump to the clean picture from any level, and no ODE leads there",
    "TCDScheduler": "its networks jump to any lower level, and no ODE leads there",
    "FlowMatchLCMScheduler": "its networks jump to the clean picture from any level, and no ODE leads there",
    "FlowMapEulerDiscreteScheduler": "its networks are told two times, of a level and of the next",
    "HeliosScheduler": "its levels run through several stages of resolution, with new noise between them",
    "HeliosDMDScheduler": "its levels run through several stages of resolution, with new noise between them",
    "UnCLIPScheduler": "its variance and its clamping are part of its networks' training, and it runs no ODE",
    "PiflowScheduler": "its networks return a policy and not a velocity",
    "SCMScheduler": "its networks jump to the clean picture from any level, and no ODE leads there",
    "CMStochasticIterativeScheduler": "its networks jump to the clean picture from any level, and no ODE leads there",
}
#: Settings that describe the network or what is done to pictures. Their defaults are facts, not choices of a sampler.
_FACTS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("snr_shift_scale", "prediction_type", "timestep_type", "sigma_min", "sigma_max", "sigma_data", "sigma_schedule"),
    *("rho", "shift", "flow_shift", "use_flow_sigmas", "use_dynamic_shifting", "time_shift_type", "base_shift"),
    *("max_shift", "base_image_seq_len", "max_image_seq_len", "shift_terminal", "invert_sigmas", "stochastic_sampling"),
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
)
#: Settings of a class that has no module of its own in this installation, because it needs torchsde.
_COSINE = {
    "sigma_min": 0.3, "sigma_max": 500, "sigma_data": 1.0, "sigma_schedule": "exponential", "num_train_timesteps": 1000,
    "solver_order": 2, "prediction_type": "v_prediction", "rho": 7.0, "solver_type": "midpoint",
    "lower_order_final": True, "euler_at_final": False, "final_sigmas_type": "zero",
}  # fmt: skip


@cache
def _settings_of_classes() -> dict[str, dict[str, Any]]:
    """The settings of every scheduler class of diffusers, with their defaults."""
    found = {"CosineDPMSolverMultistepScheduler": _COSINE}
    for name in dir(diffusers):
        kind = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if inspect.isclass(kind) and not isinstance(kind, DummyObject):
            takes = inspect.signature(kind.__init__).parameters.values()
            found[name] = {one.name: one.default for one in takes if one.name != "self" and one.kind != one.VAR_KEYWORD}
    return found


def class_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the scheduler classes that a configuration can belong to.

    Args:
        config: Configuration of any diffusers scheduler.

    Returns:
        The class that the configuration names; or else every class of diffusers that has exactly its settings.
    """
    if config.get("_class_name"):
        named = config["_class_name"]
        return (str(named if isinstance(named, str) else named[-1]),)
    names, classes = {name for name in config if not name.startswith("_")}, _settings_of_classes()
    found = tuple(name for name, settings in classes.items() if set(settings) == names)
    if _by_hand(config):
        wider = [name for name in READABLE if names < set(classes.get(name, ()))][:1]
        known = [name for name in found if name in READABLE] or wider
        # One setting alone is no copy of a configuration.
        return (*known, *(name for name in found if name not in READABLE and (len(names) > 1 or not known)))
    return found


def _by_hand(config: Mapping[str, Any]) -> bool:
    """Whether somebody has written some settings of a class: diffusers marks the settings that nobody has said."""
    return not isinstance(config, FrozenDict) and "_use_default_values" not in config


def named(scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler, which tells its class: in memory, it does not by itself.

    Args:
        scheduler: A scheduler.
    """
    kind = type(scheduler)
    config: dict[str, Any] = scheduler.config
    ours = config.get("process") is not None
    if ours or config.get("_class_name") or getattr(diffusers, kind.__name__, None) is not kind:
        return config
    # An empty list says that all settings were said, as it is in memory without the mark.
    found: dict[str, Any] = FrozenDict({"_use_default_values": [], **config, "_class_name": kind.__name__})
    vars(found).update({name: value for name, value in vars(config).items() if not name.startswith("_")})  # assigned
    return found


def check_origin(config: Mapping[str, Any]) -> None:
    """Make sure that a configuration belongs to a class whose process is known.

    Settings that somebody has written by hand are read as those of a known class. If they are also all settings of a
    class that is not known, there is a warning.

    Args:
        config: Configuration of any diffusers scheduler.

    Raises:
        InputError: it belongs to another class, or may belong to it.
    """
    classes = class_of(config)
    strange = [name for name in classes if name not in READABLE]
    known = [name for name in classes if name in READABLE]
    if strange and not known:
        raise InputError(_refusal(strange))
    if strange and not _by_hand(config):
        raise InputError(
            f"longstride does not know whether these settings are {strange[0]}'s ({_why(strange[0])}) or {known[0]}'s: "
            f"both have the same names, and a configuration in memory does not name its class; pass {_told(known[0])} "
            f"if it is {known[0]}'s"
        )
    if strange:
        warnings.warn(
            f"these settings may be {strange[0]}'s ({_why(strange[0])}); they are read as {known[0]}'s; "
            f"{_told(known[0])} says so without this warning",
            stacklevel=4,
        )
    if not classes:
        settings = {setting for name in READABLE for setting in _settings_of_classes().get(name, ())}
        said_names = {name for name, value in config.items() if value is not None and not name.startswith("_")}
        if others := sorted(said_names - settings - {"solver", "solver_options", "strict", "levels", "card"}):
            owner = next((name for name, own in _settings_of_classes().items() if set(others) & set(own)), None)
            raise InputError(
                f"longstride does not know the process of schedulers with {', '.join(others)}"
                f"{f', such as {owner}: {_why(owner)}' if owner else ''}; pass process= if you know it"
            )
    if config.get("stochastic_sampling"):
        warnings.warn(
            "stochastic_sampling adds fresh noise after every call, and longstride's samplers do not: a network that "
            "was distilled for it is sampled otherwise than it was trained",
            stacklevel=4,
        )


def _told(name: str) -> str:
    """The argument that says that a configuration belongs to a class."""
    return 'process="flow"' if name.startswith("FlowMatch") else "process="


def _why(name: str) -> str:
    return _REASONS.get(name, "what its networks predict is not known here")


def _refusal(names: Sequence[str]) -> str:
    return (
        f"longstride does not know the process of {' or '.join(names)}: {_why(names[0])}. Expected a scheduler with "
        "betas (DDPM and its kind), for flow matching or of EDM's kind; pass process= if you know the process"
    )


def said(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which diffusers sees what somebody has said, in memory and from a file alike.

    diffusers marks the settings that nobody has said, and gives every class its own defaults for them. A file has no
    such marks. Settings of the network are facts: they are said even if they have the default of their class.

    Args:
        config: Configuration of any diffusers scheduler.
    """
    classes = class_of(config)
    defaults = _settings_of_classes().get(classes[0], {}) if classes else {}
    unsaid = set(config.get("_use_default_values", ()))
    if "_class_name" in config and "_use_default_values" not in config:
        unsaid |= {name for name, default in defaults.items() if name in config and config[name] == default}
    told = {**config, "_use_default_values": sorted(unsaid - set(_FACTS))}
    return {**told, "clip_sample": False} if classes and config.get("clip_sample") and not _clamps(classes[0]) else told


@cache
def _clamps(name: str) -> bool:
    """Whether ``step`` of a class reads ``clip_sample``: not every class that has the setting does."""
    step = getattr(getattr(diffusers, name, None), "step", None)
    return step is None or "clip_sample" in inspect.unwrap(step).__code__.co_names
