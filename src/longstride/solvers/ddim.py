"""DDIM, the first-order solver."""

from __future__ import annotations

from longstride.nodes import Nodes
from longstride.table import SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["ddim"]


def ddim(nodes: Nodes) -> SolverTable:
    r"""DDIM, eta = 0; the same sampler as Euler in sigma / alpha and as DPM-Solver-1.

    .. math:: x_{i+1} = \alpha_{i+1} D_i + \sigma_{i+1} \frac{x_i - \alpha_i D_i}{\sigma_i}

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.

    Returns:
        A table with ``nfe = N``.

    References:
        Song et al., Denoising Diffusion Implicit Models, 2021, Eq. (12). https://arxiv.org/abs/2010.02502
    """
    table = TableBuilder(nodes)
    for i in table.levels():
        table.step(table.ddim(i))
    return table.table("ddim")
