"""DPM-Solver and DPM-Solver++ multistep, second and third order."""

from __future__ import annotations

from typing import Literal

import numpy as np

from longstride.errors import unknown
from longstride.nodes import Nodes
from longstride.solvers.exponential import ExponentialStep, Form, model
from longstride.table import SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["dpm_solver_2m", "dpm_solver_3m", "dpmpp_2m", "dpmpp_3m"]

Variant = Literal["midpoint", "heun"]

#: Up to this many steps the papers' code lowers the order at the end.
FEW_STEPS = 15


def _multistep(
    name: str,
    nodes: Nodes,
    order: int,
    prediction: Form,
    lower_order_final: bool | None,
    variant: Variant,
) -> SolverTable:
    if variant not in ("midpoint", "heun"):
        raise unknown("variant", variant, ("midpoint", "heun"))
    lower = nodes.steps < FEW_STEPS if lower_order_final is None else lower_order_final
    table, lam = TableBuilder(nodes), nodes.lambdas
    levels = list(zip(nodes.alphas.tolist(), nodes.sigmas.tolist(), strict=True))
    for i in table.levels():
        usable = min(order, i + 1, nodes.steps - i if lower else order)
        if not np.isfinite(lam[i + 1]):
            usable = 1  # the only order that is defined at sigma 0
        usable = min(usable, int(np.isfinite(lam[: i + 1]).sum()))
        if usable <= 1:
            table.step(table.ddim(i))
            continue
        step = ExponentialStep(table.state(i), levels[i], levels[i + 1], prediction)
        m0 = model(table, i, prediction)
        # Divided differences over lambda, times h.
        m1, h, h0 = model(table, i - 1, prediction), step.h, lam[i] - lam[i - 1]
        slope = (h / h0) * (m0 - m1)
        if usable == 2:
            weight = step.weight / 2 if variant == "midpoint" else step.slope_weight
            table.step(step.first(m0) + weight * slope)
            continue
        m2, h1 = model(table, i - 2, prediction), lam[i - 1] - lam[i - 2]
        change = slope - (h / h1) * (m1 - m2)
        d1 = slope + h0 / (h0 + h1) * change
        d2 = h / (h0 + h1) * change
        table.step(step.first(m0) + step.slope_weight * d1 + step.curvature_weight * d2)
    return table.table(name, lower_order_final=lower_order_final, variant=variant)


def dpmpp_2m(nodes: Nodes, lower_order_final: bool | None = None, variant: Variant = "midpoint") -> SolverTable:
    r"""DPM-Solver++(2M): multistep, second order, data prediction.

    .. math:: x_{i+1} = \tfrac{\sigma_{i+1}}{\sigma_i} x_i - \alpha_{i+1} (e^{-h} - 1)
              \left[(1 + \tfrac{1}{2r}) D_i - \tfrac{1}{2r} D_{i-1}\right]

    with :math:`h = \lambda_{i+1} - \lambda_i` and :math:`r = (\lambda_i - \lambda_{i-1}) / h`. The first step
    and a last step to sigma 0 are DDIM.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        lower_order_final: Whether the last step is of first order; ``None``: below 15 steps, as in the authors' code.
        variant: ``"midpoint"`` (the paper), or ``"heun"``: the same difference with the weight of the exact integral.

    Returns:
        A table with ``nfe = N``.

    References:
        Lu et al., DPM-Solver++, 2022, Algorithm 2. https://arxiv.org/abs/2211.01095
    """
    return _multistep("dpmpp_2m", nodes, 2, "data", lower_order_final, variant)


def dpmpp_3m(nodes: Nodes, lower_order_final: bool | None = None, variant: Variant = "heun") -> SolverTable:
    """DPM-Solver++(3M): multistep on three outputs, data prediction; the first two steps use one and two outputs.

    Its authors call it third order. As published, its second difference carries half the weight that third order
    needs, so that each row measures order 2 (see the tests); :func:`~longstride.solvers.unipc.unipc` of order 3 and
    :func:`~longstride.solvers.deis.deis` of order 3 measure 3.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        lower_order_final: Whether the last two steps are of order 2 and 1; ``None``: below 15 steps.
        variant: Weight of the second-order steps: ``"heun"``, the weight of the exact integral, as in third-order
            steps, or ``"midpoint"``, the default of the authors' code and of diffusers.

    Returns:
        A table with ``nfe = N``.

    References:
        Lu et al., DPM-Solver++, 2022, App. on multistep solvers of third order. https://arxiv.org/abs/2211.01095
    """
    return _multistep("dpmpp_3m", nodes, 3, "data", lower_order_final, variant)


def dpm_solver_2m(nodes: Nodes, lower_order_final: bool | None = None, variant: Variant = "midpoint") -> SolverTable:
    """DPM-Solver-2, multistep form: as :func:`dpmpp_2m`, in the noise prediction.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        lower_order_final: As in :func:`dpmpp_2m`.
        variant: As in :func:`dpmpp_2m`.

    Returns:
        A table with ``nfe = N``.

    References:
        Lu et al., DPM-Solver, 2022. https://arxiv.org/abs/2206.00927
    """
    return _multistep("dpm_solver_2m", nodes, 2, "noise", lower_order_final, variant)


def dpm_solver_3m(nodes: Nodes, lower_order_final: bool | None = None, variant: Variant = "heun") -> SolverTable:
    """DPM-Solver-3, multistep form: as :func:`dpmpp_3m`, in the noise prediction.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        lower_order_final: As in :func:`dpmpp_3m`.
        variant: As in :func:`dpmpp_3m`.

    Returns:
        A table with ``nfe = N``.

    References:
        Lu et al., DPM-Solver, 2022. https://arxiv.org/abs/2206.00927
    """
    return _multistep("dpm_solver_3m", nodes, 3, "noise", lower_order_final, variant)
