"""Heun's second-order solver, as EDM and as rectified flows use it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from longstride.errors import InputError, unknown
from longstride.nodes import Nodes
from longstride.table import Row, SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["heun"]

Variable = Literal["auto", "ratio", "sigma"]


def heun(nodes: Nodes, variable: Variable = "auto") -> SolverTable:
    r"""Heun's trapezoidal rule: EDM's Algorithm 1 without noise, in :math:`\rho = \sigma / \alpha`, or a flow's sigma.

    .. math:: \tilde x_{i+1} = x_i + (\rho_{i+1} - \rho_i)\, \epsilon_i, \qquad
              x_{i+1} = x_i + (\rho_{i+1} - \rho_i)\, \tfrac12 (\epsilon_i + \tilde\epsilon_{i+1})

    (written for alpha = 1). In the sigma of a rectified flow, whose velocity is :math:`u = \epsilon - x_0`, it is

    .. math:: \tilde x_{i+1} = x_i + (\sigma_{i+1} - \sigma_i)\, u_i, \qquad
              x_{i+1} = x_i + (\sigma_{i+1} - \sigma_i)\, \tfrac12 (u_i + \tilde u_{i+1})

    which can start at alpha = 0. A last step to sigma 0 is Euler's.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        variable: ``"ratio"``, or ``"sigma"`` for a rectified flow (alpha + sigma = 1); ``"auto"``: by the levels.

    Returns:
        A table with ``nfe = 2 N``, or ``2 N - 1`` when it ends at sigma 0.

    Raises:
        InputError: a first alpha of 0 in ``"ratio"``, or levels that are no flow's in ``"sigma"``.

    References:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, Algorithm 1.
        https://arxiv.org/abs/2206.00364
    """
    if variable not in get_args(Variable):
        raise unknown("variable", variable, get_args(Variable))
    straight = bool(np.allclose(nodes.alphas + nodes.sigmas, 1.0, rtol=0, atol=1e-9))
    in_sigma = variable == "sigma" or (variable == "auto" and straight)
    if in_sigma and not straight:
        raise InputError("heun in sigma is for rectified flows, alpha + sigma = 1, and these levels are not of one")
    table = TableBuilder(nodes)
    for i in table.levels():
        here, end = table.at(i), (float(nodes.alphas[i + 1]), float(nodes.sigmas[i + 1]))

        def moved(slope: Row, i: int = i, end: tuple[float, float] = end) -> Row:
            """The state at the end of the step, from a mean noise, or a mean velocity."""
            if in_sigma:
                return table.state(table.at(i)) + (end[1] - float(nodes.sigmas[i])) * slope
            return table.transfer(i, slope, *end)

        def slope(j: int, sigma: float) -> Row:
            return (table.state(j) - table.data(j)) / sigma if in_sigma else table.noise(j)

        first = slope(here, float(nodes.sigmas[i]))
        if end[1] == 0:
            table.step(moved(first))
            continue
        ahead = table.stage(moved(first), *end)
        table.step(moved((first + slope(ahead, end[1])) / 2))
    return table.table("heun", **({} if variable == "auto" else {"variable": variable}))
