"""What diffusers has for each of our solvers: its scheduler class, and how that class reads its settings.

A new solver is one entry of :data:`COUNTERPARTS`. A solver without an entry runs on the levels of ``DDIMScheduler``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from longstride.nodes import Nodes
from longstride.solvers.dpm_multistep import FEW_STEPS

__all__ = ["COUNTERPARTS", "Counterpart", "Options", "counterpart_of"]

#: Makes a solver's options, as :func:`longstride.build` takes them, from a scheduler's configuration and its levels.
Options = Callable[[Mapping[str, Any], Nodes], dict[str, Any]]


def _no_options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Counterpart:
    """What diffusers has for one solver.

    Attributes:
        scheduler_class: Name of diffusers' class of the solver, whose levels the solver then visits. None if diffusers
            has no such class, or if its levels are those of ``levels_class``.
        levels_class: Name of the class whose levels the solver visits if ``scheduler_class`` is None.
        options: How diffusers' class reads the solver's options from its settings.
        defaults: Settings of which diffusers' class has another default than ``levels_class``.
        settings: Settings that win over those of a configuration, because the solver needs them.
        clips: Whether diffusers' class clamps clean predictions if ``clip_sample`` is set.
        one_call: Whether the solver makes exactly one network call per level.
        continues_as: Solver that replaces this one in a run that begins in the middle. None: the solver itself.
    """

    scheduler_class: str | None = None
    levels_class: str = "DDIMScheduler"
    options: Options = _no_options
    defaults: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    clips: bool = True
    one_call: bool = False
    continues_as: str | None = None


def counterpart_of(solver: str) -> Counterpart:
    """What diffusers has for a solver.

    Args:
        solver: One of :data:`longstride.SOLVERS`.

    Returns:
        The entry of :data:`COUNTERPARTS`, or a plain one if the solver has none.
    """
    return COUNTERPARTS.get(solver, Counterpart())


def _asked(config: Mapping[str, Any], name: str, default: Any) -> Any:
    """A setting, or diffusers' default if the setting is None."""
    value = config.get(name)
    return default if value is None else value


def _lowers_end(config: Mapping[str, Any], nodes: Nodes) -> bool:
    """Whether diffusers lowers the order at the end. Most of its classes do so only if the steps are few."""
    return bool(_asked(config, "lower_order_final", True)) and nodes.steps < FEW_STEPS


def _multistep_options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """Options that ``DPMSolverMultistepScheduler`` reads."""
    variant = _asked(config, "solver_type", "midpoint")
    return {
        "lower_order_final": _lowers_end(config, nodes) or bool(_asked(config, "euler_at_final", False)),
        "variant": variant if variant in ("midpoint", "heun") else "midpoint",
    }


def _singlestep_options(order: int) -> Options:
    """Options that ``DPMSolverSinglestepScheduler`` reads at an order."""

    def options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
        orders = _orders(order, nodes, bool(_asked(config, "lower_order_final", False)))
        exact = {"exact_second_stage": False} if order == 3 else {}
        return {"stages": "grid", "orders": orders, **exact}

    return options


def _orders(order: int, nodes: Nodes, lowered: bool) -> list[int]:
    """Orders of single steps that cover the levels.

    The order is 1 from alpha 0 and to sigma 0. It is also 1 at the end if ``lowered``.
    """
    first = int(nodes.alphas[0] == 0)
    last = int(nodes.sigmas[-1] == 0 or lowered)
    if first + last > nodes.steps:
        return [1] * nodes.steps
    full, left = divmod(nodes.steps - first - last, order)
    return [1] * first + [order] * full + [left] * (left > 0) + [1] * last


def _deis_options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """Options that ``DEISMultistepScheduler`` reads."""
    order = _asked(config, "solver_order", 2)
    return {"order": order, "variable": "log_rho", "lower_order_final": _lowers_end(config, nodes)}


def _unipc_options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """Options that ``UniPCMultistepScheduler`` reads."""
    variant = _asked(config, "solver_type", "bh2")
    return {
        "order": _asked(config, "solver_order", 2),
        "variant": variant if variant in ("bh1", "bh2") else "bh2",
        "prediction": "data" if _asked(config, "predict_x0", True) else "noise",
        "lower_order_final": bool(_asked(config, "lower_order_final", True)),
    }


def _pndm_options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """Options that ``PNDMScheduler`` reads."""
    return {"start": "improved_euler" if _asked(config, "skip_prk_steps", False) else "runge_kutta"}


def _universal_options(config: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """Guidance scale, and the data's scale where the settings tell it: EDM says it, and clamped samples are pixels."""
    clipped = 0.5 if config.get("clip_sample") else None
    return {
        "data_std": config.get("sigma_data") or clipped,
        "guidance": _asked(config, "guidance_scale", 1.0),
    }


# diffusers' classes of the exponential solvers, PNDM's and iPNDM's do not know clip_sample.
_MULTISTEP = Counterpart("DPMSolverMultistepScheduler", options=_multistep_options, clips=False, one_call=True)
_SINGLESTEP = Counterpart("DPMSolverSinglestepScheduler", options=_singlestep_options(2), clips=False)
#: The first steps make further calls, which a run from the middle has no room for.
_STARTED = Counterpart(defaults={"set_alpha_to_one": False}, clips=False, continues_as="ipndm")

#: diffusers' counterpart of every solver, by the solver's name.
COUNTERPARTS: dict[str, Counterpart] = {
    "ddim": Counterpart(one_call=True),
    "spndm": _STARTED,
    "pndm": replace(_STARTED, options=_pndm_options),
    "ipndm": Counterpart(clips=False, one_call=True),
    "deis": Counterpart("DEISMultistepScheduler", options=_deis_options, clips=False, one_call=True),
    "heun": Counterpart(levels_class="EulerDiscreteScheduler", clips=False),
    "dpm_solver_2": _SINGLESTEP,
    "dpm_solver_3": replace(_SINGLESTEP, options=_singlestep_options(3)),
    "dpm_solver_2m": _MULTISTEP,
    "dpm_solver_3m": _MULTISTEP,
    "dpmpp_2s": _SINGLESTEP,
    "dpmpp_2m": _MULTISTEP,
    "dpmpp_3m": _MULTISTEP,
    "unipc": Counterpart("UniPCMultistepScheduler", options=_unipc_options, clips=False, one_call=True),
    # It visits levels of its own between the two ends, and needs the first: "leading" times begin below it.
    "longstride": Counterpart(
        options=_universal_options, settings={"timestep_spacing": "trailing"}, one_call=True, continues_as="unipc"
    ),
}
