"""DEIS: exponential Adams–Bashforth, the noise prediction extrapolated by a polynomial."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longstride.errors import InputError, unknown
from longstride.nodes import Nodes
from longstride.table import Row, SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["deis"]

Variable = Literal["t", "rho", "log_rho"]

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)
#: Power of the substitution that gathers quadrature points towards sigma 0, where log rho and the time are curved.
_POWER = 4


def deis(nodes: Nodes, order: int = 3, variable: Variable = "t", lower_order_final: bool = False) -> SolverTable:
    r"""DEIS with a polynomial of degree ``order - 1`` through the latest noises, integrated exactly in :math:`\rho`.

    .. math:: \frac{x_{i+1}}{\alpha_{i+1}} = \frac{x_i}{\alpha_i} + \sum_j C_{ij}\, \epsilon_{i-j}, \qquad
              C_{ij} = \int_{\rho_i}^{\rho_{i+1}} \prod_{k \ne j}
              \frac{\tau - \tau_{i-k}}{\tau_{i-j} - \tau_{i-k}} \, d\rho

    The order rises from 1 over the first steps.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        order: 1 (DDIM), 2 or 3: number of outputs used.
        variable: Variable of the polynomial: ``"t"``, the network's time by ``nodes.schedule`` (tAB, the paper's
            choice; without a schedule ``t = rho``), ``"rho"`` (rhoAB), or ``"log_rho"``, as in diffusers.
        lower_order_final: Whether the order falls to 1 over the last steps; diffusers does so below 15 steps.

    Returns:
        A table with ``nfe = N``.

    Raises:
        InputError: an order outside 1 … 3 or an unknown variable.

    References:
        Zhang & Chen, Fast Sampling of Diffusion Models with Exponential Integrator, 2023, Eqs. (14)–(15).
        https://arxiv.org/abs/2204.13902
    """
    if order not in (1, 2, 3):
        raise InputError(f"deis has order 1, 2 or 3, got {order}")
    if variable not in ("t", "rho", "log_rho"):
        raise unknown("variable", variable, ("t", "rho", "log_rho"))
    table = TableBuilder(nodes)
    for i in table.levels():
        usable = min(order, i + 1, nodes.steps - i if lower_order_final else order)
        calls = list(range(i, i - usable, -1))
        if np.isinf(nodes.ratios[calls[-1]]):  # no polynomial reaches back to alpha = 0
            calls = calls[:-1] or [i]
        if len(calls) == 1:
            table.step(table.ddim(i))
            continue
        width = nodes.ratios[i + 1] - nodes.ratios[i]
        mean_noise = Row()
        for weight, j in zip(_weights(nodes, i, calls, variable) / width, calls, strict=True):
            mean_noise = mean_noise + weight * table.noise(j)
        table.step(table.transfer(i, mean_noise, nodes.alphas[i + 1], nodes.sigmas[i + 1]))
    return table.table("deis", order=order, variable=variable, lower_order_final=lower_order_final)


def _weights(nodes: Nodes, i: int, calls: list[int], variable: Variable) -> NDArray[np.float64]:
    """``C_ij`` for the outputs ``calls`` by Gauss–Legendre quadrature, exact if tau is rho."""

    def tau(rho: NDArray[np.float64]) -> NDArray[np.float64]:
        if variable == "log_rho":
            return np.log(rho)
        return rho if variable == "rho" else nodes.time(rho)

    # rho = s^4 turns the integral into a smooth one that still integrates constants exactly.
    s0, s1 = nodes.ratios[i] ** (1 / _POWER), nodes.ratios[i + 1] ** (1 / _POWER)
    s = s0 + (s1 - s0) * (_POINTS + 1) / 2
    d_rho = _POWER * s ** (_POWER - 1) * (s1 - s0) / 2 * _WEIGHTS
    at, known = tau(s**_POWER), tau(nodes.ratios[calls])
    total = []
    for j in range(len(calls)):
        others = np.delete(known, j)
        basis = np.prod((at[:, None] - others) / (known[j] - others), axis=1)
        total.append(float(d_rho @ basis))
    return np.array(total)
