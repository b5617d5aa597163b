"""DPM-Solver and DPM-Solver++ single-step: second and third order with inner stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from longstride.errors import InputError, unknown
from longstride.nodes import Nodes
from longstride.solvers.exponential import ExponentialStep, Form, model
from longstride.table import SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["dpm_solver_2", "dpm_solver_3", "dpmpp_2s"]

Stages = Literal["inner", "grid"]


def _singlestep(
    name: str,
    nodes: Nodes,
    prediction: Form,
    orders: Sequence[int],
    stages: Stages,
    exact_second_stage: bool,
    options: dict[str, Any],
) -> SolverTable:
    """Steps of the given ``orders``; with ``stages="grid"`` a step of order ``p`` spends ``p`` grid intervals."""
    if stages not in ("inner", "grid"):
        raise unknown("stages", stages, ("inner", "grid"))
    intervals = sum(orders) if stages == "grid" else len(orders)
    if not set(orders) <= {1, 2, 3}:
        raise InputError(f"{name}: orders must be 1, 2 or 3, got {list(orders)}")
    if intervals != nodes.steps:
        raise InputError(f"{name}: orders {list(orders)} cover {intervals} grid intervals, the grid has {nodes.steps}")
    table, i = TableBuilder(nodes), 0
    for order in orders:
        ends = [i + n + 1 for n in range(order)] if stages == "grid" else [i + 1]
        target = (float(nodes.alphas[ends[-1]]), float(nodes.sigmas[ends[-1]]))
        if order > 1 and (target[1] == 0 or nodes.alphas[i] == 0):
            raise InputError(f"{name}: a step of order {order} cannot start at alpha 0 or end at sigma 0")
        source, start, here = (float(nodes.alphas[i]), float(nodes.sigmas[i])), table.at(i), table.at(i)
        if stages == "grid":
            inner = [(float(nodes.alphas[e]), float(nodes.sigmas[e])) for e in ends[:-1]]
        else:
            ratio = nodes.ratios[i + 1] / nodes.ratios[i]
            inner = [nodes.inner(float(nodes.ratios[i] * ratio ** (n / order))) for n in range(1, order)]
        calls, levels = [here], [source]
        for level in [*inner, target]:
            step = ExponentialStep(table.state(start), source, level, prediction)
            m = [model(table, j, prediction) for j in calls]
            if len(calls) == 1:
                row = table.ddim(i) if order == 1 else step.first(m[0])
            else:
                # Positions of the stages as fractions of this step, and the slope to the latest stage.
                r = [ExponentialStep(step.start, source, stage, prediction).h / step.h for stage in levels[1:]]
                slope = (m[-1] - m[0]) / r[-1]
                exact = len(calls) == 3 or (order == 3 and exact_second_stage)
                row = step.first(m[0]) + (step.slope_weight if exact else step.weight / 2) * slope
            on_grid = stages == "grid" or level is target
            calls.append(table.step(row) if on_grid else table.stage(row, *level))
            levels.append(level)
        i = ends[-1]
    return table.table(name, **options)


def _default_orders(nodes: Nodes, order: int) -> list[int]:
    """``order`` for every step, but 1 (DDIM) for a step from alpha 0 or to sigma 0."""
    orders = [order] * nodes.steps
    if nodes.sigmas[-1] == 0:
        orders[-1] = 1
    if nodes.alphas[0] == 0:
        orders[0] = 1
    return orders


def dpm_solver_2(nodes: Nodes, orders: Sequence[int] | None = None, stages: Stages = "inner") -> SolverTable:
    r"""DPM-Solver-2: single-step, second order, noise prediction, with one stage halfway in lambda.

    .. math:: u = \tfrac{\alpha_s}{\alpha_i} x_i - \sigma_s (e^{h/2} - 1) \epsilon_i, \qquad
              x_{i+1} = \tfrac{\alpha_{i+1}}{\alpha_i} x_i - \sigma_{i+1} (e^h - 1)\, \epsilon(u, s)

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        orders: Order of every step; default 2, and 1 for a step from alpha 0 or to sigma 0.
        stages: ``"inner"``: stages lie between grid levels (the paper). ``"grid"``: every call has a grid level of its
            own, and a step of order p spans p grid intervals (diffusers' single-step scheduler).

    Returns:
        A table with ``nfe = sum(orders)``.

    Raises:
        InputError: orders that do not fit the grid, or a higher-order step at alpha 0 or to sigma 0.

    References:
        Lu et al., DPM-Solver, 2022, Algorithm 1. https://arxiv.org/abs/2206.00927
    """
    options = {"orders": orders, "stages": stages}
    return _singlestep("dpm_solver_2", nodes, "noise", orders or _default_orders(nodes, 2), stages, True, options)


def dpm_solver_3(
    nodes: Nodes,
    orders: Sequence[int] | None = None,
    stages: Stages = "inner",
    prediction: Form = "noise",
    exact_second_stage: bool = True,
) -> SolverTable:
    r"""DPM-Solver-3: single-step, third order, with stages at one and two thirds in lambda.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        orders: Order of every step; default 3, and 1 for a step from alpha 0 or to sigma 0. ``(3, 3, 2)``-like lists
            give "DPM-Solver-fast".
        stages: As in :func:`dpm_solver_2`.
        prediction: ``"noise"`` (the paper), or ``"data"`` (DPM-Solver++ 3S).
        exact_second_stage: Whether the second stage weighs the difference by the exact integral, as in the paper;
            ``False`` gives diffusers' midpoint weight.

    Returns:
        A table with ``nfe = sum(orders)``.

    Raises:
        InputError: orders that do not fit the grid, or a higher-order step at alpha 0 or to sigma 0.

    References:
        Lu et al., DPM-Solver, 2022, Algorithm 2. https://arxiv.org/abs/2206.00927
    """
    chosen = orders or _default_orders(nodes, 3)
    options = {"orders": orders, "stages": stages, "prediction": prediction, "exact_second_stage": exact_second_stage}
    return _singlestep("dpm_solver_3", nodes, prediction, chosen, stages, exact_second_stage, options)


def dpmpp_2s(nodes: Nodes, orders: Sequence[int] | None = None, stages: Stages = "inner") -> SolverTable:
    r"""DPM-Solver++(2S): single-step, second order, data prediction, with one stage halfway in lambda.

    .. math:: u = \tfrac{\sigma_s}{\sigma_i} x_i - \alpha_s (e^{-h/2} - 1) D_i, \qquad
              x_{i+1} = \tfrac{\sigma_{i+1}}{\sigma_i} x_i - \alpha_{i+1} (e^{-h} - 1)\, D(u, s)

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        orders: Order of every step; default 2, and 1 for a step from alpha 0 or to sigma 0.
        stages: As in :func:`dpm_solver_2`.

    Returns:
        A table with ``nfe = sum(orders)``.

    Raises:
        InputError: orders that do not fit the grid, or a higher-order step at alpha 0 or to sigma 0.

    References:
        Lu et al., DPM-Solver++, 2022, Algorithm 1. https://arxiv.org/abs/2211.01095
    """
    options = {"orders": orders, "stages": stages}
    return _singlestep("dpmpp_2s", nodes, "data", orders or _default_orders(nodes, 2), stages, True, options)
