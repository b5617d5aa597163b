"""EDM's second-order Heun solver."""

from __future__ import annotations

from longstride.nodes import Nodes
from longstride.table import SolverTable, TableBuilder

__all__ = ["heun"]


def heun(nodes: Nodes) -> SolverTable:
    r"""Heun's trapezoidal rule in :math:`\rho = \sigma / \alpha`, deterministic part of EDM's Algorithm 1.

    .. math:: \tilde x_{i+1} = x_i + (\rho_{i+1} - \rho_i)\, \epsilon_i, \qquad
              x_{i+1} = x_i + (\rho_{i+1} - \rho_i)\, \tfrac12 (\epsilon_i + \tilde\epsilon_{i+1})

    (written for alpha = 1). A last step to sigma 0 is Euler's.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.

    Returns:
        A table with ``nfe = 2 N``, or ``2 N - 1`` when it ends at sigma 0.

    Raises:
        InputError: a first alpha of 0.

    References:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, Algorithm 1.
        https://arxiv.org/abs/2206.00364
    """
    table = TableBuilder(nodes)
    for i in table.levels():
        here, end = table.at(i), (nodes.alphas[i + 1], nodes.sigmas[i + 1])
        euler = table.transfer(i, table.noise(here), *end)
        if nodes.sigmas[i + 1] == 0:
            table.step(euler)
            continue
        ahead = table.stage(euler, *end)
        table.step(table.transfer(i, (table.noise(here) + table.noise(ahead)) / 2, *end))
    return table.table("heun")
