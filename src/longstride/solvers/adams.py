"""Adams–Bashforth in the noise prediction with the DDIM transfer: iPNDM, PNDM and S-PNDM."""

from __future__ import annotations

from typing import Literal

from longstride.errors import InputError, unknown
from longstride.nodes import Nodes
from longstride.table import Row, SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["ipndm", "pndm", "spndm"]

#: Adams–Bashforth weights for even steps, latest output first.
ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def adams_bashforth(table: TableBuilder, calls: list[int], order: int) -> Row:
    """Noise extrapolated from the outputs ``calls`` (oldest first), of order ``min(order, len(calls))``."""
    weights = ADAMS_BASHFORTH[min(order, len(calls)) - 1]
    total = Row()
    for weight, j in zip(weights, reversed(calls), strict=False):
        total = total + weight * table.noise(j)
    return total


def _check_order(name: str, order: int) -> None:
    if order not in (1, 2, 3, 4):
        raise InputError(f"{name} has order 1, 2, 3 or 4, got {order}")


def ipndm(nodes: Nodes, order: int = 4) -> SolverTable:
    r"""iPNDM: PNDM without its Runge–Kutta start; the order rises from 1 over the first steps.

    .. math:: x_{i+1} = \frac{\alpha_{i+1}}{\alpha_i} x_i
              + \left(\sigma_{i+1} - \frac{\alpha_{i+1}}{\alpha_i}\sigma_i\right) \sum_j w_j \epsilon_{i-j}

    The weights of even steps serve on every grid, so that an order above 1 is formal.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        order: 1 (DDIM) to 4.

    Returns:
        A table with ``nfe = N``.

    Raises:
        InputError: an order outside 1 … 4.

    References:
        Zhang & Chen, Fast Sampling with Exponential Integrator, 2023, App. H.2. https://arxiv.org/abs/2204.13902
        Liu et al., Pseudo Numerical Methods, 2022, Eq. (12). https://arxiv.org/abs/2202.09778
    """
    _check_order("ipndm", order)
    table = TableBuilder(nodes)
    for i in table.levels():
        if i == 0 or order == 1:
            table.step(table.ddim(i))
            continue
        noise = adams_bashforth(table, list(range(i + 1)), order)
        table.step(table.transfer(i, noise, nodes.alphas[i + 1], nodes.sigmas[i + 1]))
    return table.table("ipndm", order=order)


def pndm(nodes: Nodes, order: int = 4, start: Literal["runge_kutta", "improved_euler"] = "runge_kutta") -> SolverTable:
    r"""PNDM: pseudo linear multistep, started by pseudo Runge–Kutta or pseudo improved Euler steps.

    A pseudo Runge–Kutta step takes the four noises of the classical method, each moved by the DDIM transfer; its two
    inner levels lie halfway in network time. ``improved_euler`` is the two-call start that diffusers calls
    ``skip_prk_steps``.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        order: Order of the multistep rows, 1 to 4.
        start: ``"runge_kutta"`` for the first ``min(3, N)`` steps (4 calls each), or ``"improved_euler"`` for the
            first step (2 calls).

    Returns:
        A table with ``nfe = N + 9`` (for N ≥ 3), or ``N + 1``.

    Raises:
        InputError: an order outside 1 … 4, an unknown start, or a first alpha of 0.

    References:
        Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds, 2022, Eqs. (11)–(13) and Algorithm 2.
        https://arxiv.org/abs/2202.09778
    """
    _check_order("pndm", order)
    if start == "improved_euler" and nodes.steps == 1 and nodes.sigmas[1] == 0:
        raise InputError("PNDM calls the network at the end of its first step, which cannot lie at sigma 0")
    table = TableBuilder(nodes)
    calls: list[int] = []
    for i in table.levels():
        here, alpha, sigma = table.at(i), nodes.alphas[i + 1], nodes.sigmas[i + 1]
        calls.append(here)
        if start == "runge_kutta" and i < 3:
            combined = _runge_kutta(table, i)
        elif start == "improved_euler" and i == 0:
            ahead = table.stage(table.transfer(i, table.noise(here), alpha, sigma), alpha, sigma)
            combined = (table.noise(here) + table.noise(ahead)) / 2
        elif start in ("runge_kutta", "improved_euler"):
            combined = adams_bashforth(table, calls, order)
        else:
            raise unknown("start", start, ("runge_kutta", "improved_euler"))
        table.step(table.transfer(i, combined, alpha, sigma))
    return table.table("pndm", order=order, start=start)


def _runge_kutta(table: TableBuilder, i: int) -> Row:
    nodes, here = table.nodes, table.at(i)
    if nodes.sigmas[i + 1] == 0:
        raise InputError("PNDM's Runge–Kutta start calls the network at the end of its step: sigma 0 must come later")
    middle = nodes.inner(nodes.ratio_halfway(i))
    end = (nodes.alphas[i + 1], nodes.sigmas[i + 1])
    first = table.noise(here)
    second = table.noise(table.stage(table.transfer(i, first, *middle), *middle))
    third = table.noise(table.stage(table.transfer(i, second, *middle), *middle))
    fourth = table.noise(table.stage(table.transfer(i, third, *end), *end))
    return (first + 2.0 * second + 2.0 * third + fourth) / 6


def spndm(nodes: Nodes) -> SolverTable:
    r"""S-PNDM: second-order Adams–Bashforth after one pseudo improved Euler step.

    .. math:: \hat\epsilon_0 = \tfrac12 (\epsilon_0 + \tilde\epsilon_1), \qquad
              \hat\epsilon_i = \tfrac12 (3 \epsilon_i - \epsilon_{i-1})

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.

    Returns:
        A table with ``nfe = N + 1``.

    Raises:
        InputError: a first alpha of 0, or a single step to sigma 0.

    References:
        Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds, 2022, App. A.5 (S-PNDM).
        https://arxiv.org/abs/2202.09778
    """
    if nodes.steps == 1 and nodes.sigmas[1] == 0:
        raise InputError("S-PNDM calls the network at the end of its first step, which cannot lie at sigma 0")
    table = pndm(nodes, order=2, start="improved_euler")
    return SolverTable("spndm", table.alphas, table.sigmas, table.rows, table.grid)
