"""What one run of a pipeline does, decided before it begins: levels, network times, and the table on its own scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longstride.denoiser import DIFFUSERS_PREDICTIONS, clean_weights
from longstride.errors import InputError, unknown
from longstride.families import alpha_of_ratio
from longstride.integrations.levels import Levels, times_of
from longstride.integrations.reference import Process
from longstride.nodes import Nodes
from longstride.schedule import Schedule
from longstride.solvers import build
from longstride.solvers.dpm_multistep import FEW_STEPS
from longstride.table import SolverTable

__all__ = ["SINGLE", "Plan", "after", "classical_plan", "continued", "plan_of_table"]

Array = NDArray[np.float64]
#: Solvers that make one call per level.
SINGLE = ("ddim", "ipndm", "deis", "dpmpp_2m", "dpmpp_3m", "dpm_solver_2m", "dpm_solver_3m", "unipc")
#: Solvers whose first steps make further calls, and what goes on from the middle of their run in their place.
_STARTED = {"pndm": "ipndm", "spndm": "ipndm"}


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        table: The sampler, on the scale of the pipeline's states.
        times: What the network is told at every call, shape ``(K,)``.
        whole: Whether all of these are whole numbers, as discrete schedulers have them.
        process: Scale of the states.
        prediction: What the network predicts, as diffusers names it.
        sigma_data: Of EDM's preconditioning.
        shape: Of one state, where it is for no other.
    """

    table: SolverTable
    times: Array
    whole: bool
    process: Process
    prediction: str
    sigma_data: float = 0.5
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _ = self.clean  # an impossible prediction is refused here, not in the middle of a run

    @property
    def calls(self) -> int:
        """Network calls K."""
        return self.table.nfe

    @property
    def order(self) -> int:
        """Network calls per step, where all but the last make as many; otherwise 1, as diffusers' PNDM says."""
        calls = np.diff(self.table.grid)
        return int(calls[0]) if (calls[:-1] == calls[0]).all() else 1

    @property
    def ratios(self) -> Array:
        """What diffusers calls ``sigmas``: ``sigma / alpha`` of every state, sigma itself for flows."""
        if self.process == "flow":
            return self.table.sigmas
        return Nodes(self.table.alphas, self.table.sigmas).ratios

    def as_levels(self) -> Levels:
        """The levels of its steps."""
        grid = list(self.table.grid)
        return Levels(self.times[grid[:-1]], self.table.alphas[grid], self.table.sigmas[grid], self.whole)

    @cached_property
    def clean(self) -> tuple[tuple[float, float], ...]:
        """For every call the weights of the state and of the network's output in the clean prediction."""
        levels = list(zip(self.table.alphas.tolist(), self.table.sigmas.tolist(), strict=True))[:-1]
        if self.process != "edm":
            if self.prediction not in DIFFUSERS_PREDICTIONS:
                raise unknown("prediction type", self.prediction, DIFFUSERS_PREDICTIONS)
            return tuple(clean_weights(DIFFUSERS_PREDICTIONS[self.prediction], *level) for level in levels)
        if self.prediction not in ("epsilon", "v_prediction"):
            raise unknown("prediction type with EDM's preconditioning", self.prediction, ("epsilon", "v_prediction"))
        sign = 1.0 if self.prediction == "epsilon" else -1.0
        own = self.sigma_data**2
        return tuple((own / (s**2 + own), sign * s * self.sigma_data / (s**2 + own) ** 0.5) for _, s in levels)

    @cached_property
    def input_scale(self) -> tuple[float, ...]:
        """For every call what the state is multiplied by before the network sees it; 1 but for EDM."""
        if self.process != "edm":
            return (1.0,) * self.calls
        return tuple((s**2 + self.sigma_data**2) ** -0.5 for s in self.table.sigmas[:-1].tolist())


def classical_plan(
    solver: str,
    levels: Levels,
    schedule: Schedule,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    process: Process,
) -> Plan:
    """A classical solver on some levels.

    Args:
        solver: Its name.
        levels: Of its steps.
        schedule: The process, which tells the network times of inner stages.
        config: Settings of the scheduler; those of the solver are read as diffusers does.
        options: The solver's options as :func:`longstride.build` takes them; they win over ``config``.
        process: Scale of the states.

    Raises:
        InputError: the solver does not take these levels or options.
    """
    chosen = {**_options(solver, config, levels), **options}
    own = None if process == "edm" else schedule
    table = build(solver, levels.sigmas, alphas=levels.alphas, schedule=own, **chosen)
    times, whole = _call_times(table, levels, schedule, process)
    return Plan(table, times, whole, process, *_network(config, process))


def plan_of_table(table: SolverTable, times: Array, config: Mapping[str, Any], process: Process) -> Plan:
    """A table from a card, in the frame that it was calibrated in.

    Args:
        table: The table.
        times: Network times of its states, shape ``(K + 1,)`` or ``(K,)``.
        config: Settings of the scheduler.
        process: Scale of the pipeline's states.

    Raises:
        InputError: its levels belong to another process.
    """
    own = alpha_of_ratio("ve" if process == "edm" else process, Nodes(table.alphas, table.sigmas).ratios)
    divided = bool((table.alphas == 1).all())
    if not divided and not np.allclose(own, table.alphas, rtol=1e-6, atol=1e-9):
        raise InputError(f"the card's levels are not those of a {process} process: it is for another kind of network")
    if divided and process == "flow":
        raise InputError("the card's states are divided by alpha, those of a flow are not: it is for another network")
    moved = table.rescaled(own) if divided and process == "vp" else table
    return Plan(moved.chained(), np.asarray(times, np.float64)[: table.nfe], False, process, *_network(config, process))


def _network(config: Mapping[str, Any], process: Process) -> tuple[str, float]:
    default = "flow_prediction" if process == "flow" else "epsilon"
    return str(config.get("prediction_type") or default), float(config.get("sigma_data") or 0.5)


def _call_times(table: SolverTable, levels: Levels, schedule: Schedule, process: Process) -> tuple[Array, bool]:
    """Times of all calls: those of the levels where a call is at one, the schedule's own at inner stages."""
    known = dict(zip(levels.sigmas.tolist(), levels.times.tolist(), strict=False))
    found, whole = [], levels.whole
    for alpha, sigma in zip(table.alphas[:-1].tolist(), table.sigmas[:-1].tolist(), strict=True):
        if sigma not in known:
            ratio = sigma / alpha if alpha else np.inf
            known[sigma] = float(times_of(schedule, process, ratio))
            whole = False
        found.append(known[sigma])
    return np.array(found), whole


def _options(solver: str, config: Mapping[str, Any], levels: Levels) -> dict[str, Any]:
    """Options of a solver that a scheduler's configuration asks for, as diffusers' class of that solver reads them."""

    def asked(name: str, default: Any) -> Any:
        value = config.get(name)
        return default if value is None else value

    lower = bool(asked("lower_order_final", True)) and levels.steps < FEW_STEPS
    if solver in ("dpmpp_2m", "dpmpp_3m", "dpm_solver_2m", "dpm_solver_3m"):
        kind = asked("solver_type", "midpoint")
        ends = lower or bool(asked("euler_at_final", False))
        return {"lower_order_final": ends, "variant": kind if kind in ("midpoint", "heun") else "midpoint"}
    if solver == "deis":
        return {"order": asked("solver_order", 2), "variable": "log_rho", "lower_order_final": lower}
    if solver == "unipc":
        kind = asked("solver_type", "bh2")
        return {
            "order": asked("solver_order", 2),
            "variant": kind if kind in ("bh1", "bh2") else "bh2",
            "prediction": "data" if asked("predict_x0", True) else "noise",
            "lower_order_final": bool(asked("lower_order_final", True)),
        }
    if solver in ("dpmpp_2s", "dpm_solver_2", "dpm_solver_3"):
        order = 3 if solver == "dpm_solver_3" else 2
        exact = {"exact_second_stage": False} if order == 3 else {}
        lowered = bool(asked("lower_order_final", False))
        return {"stages": "grid", "orders": _orders(order, levels, lowered), **exact}
    if solver == "pndm":
        return {"start": "improved_euler" if asked("skip_prk_steps", False) else "runge_kutta"}
    return {}


def _orders(order: int, levels: Levels, lowered: bool) -> list[int]:
    """Orders of single steps that cover the levels: 1 from alpha 0, to sigma 0 and, if ``lowered``, at the end."""
    first = int(levels.alphas[0] == 0)
    last = int(levels.sigmas[-1] == 0 or lowered)
    if first + last > levels.steps:
        return [1] * levels.steps
    full, left = divmod(levels.steps - first - last, order)
    return [1] * first + [order] * full + [left] * (left > 0) + [1] * last


def after(plan: Plan, call: int) -> int:
    """Step that a run which begins at a call starts with: the first at or below the level of that call."""
    level = plan.table.sigmas[call]
    return next(i for i, state in enumerate(plan.table.grid) if plan.table.sigmas[state] <= level)


def continued(solver: str) -> str:
    """The solver that a run from the middle goes on with: one that spends a call per step from its first on."""
    return _STARTED.get(solver, solver)
