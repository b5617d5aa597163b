r"""How much a table amplifies what is wrong with its inputs.

A network's outputs are wrong by rounding, quantisation, or because the model was changed a little. If every output
:math:`D_j` is off by an independent error of root-mean-square size :math:`\epsilon`, the last state is off by

.. math:: \epsilon\, \Big(\sum_j \| \partial x_K / \partial D_j \|^2\Big)^{1/2},

where the derivative follows the error through the network calls behind it. Its square root is measured by one more
roll-out with a small random error on every output: the *gain* of the table on this network. A table that leaned on
large weights of opposite signs would have a large one, however well it fits. ``b`` alone gives a number, too, without
any network: the largest sum of absolute weights of a row. It bounds the gain of a network that does not react to its
input.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double
from longstride.sampler import DenoiserLike, Run
from longstride.table import SolverTable

__all__ = ["gains", "largest_weights"]

#: Root-mean-square size of the errors that are made: like half precision's, and well above float32's own.
EPSILON = 2e-3


@torch.inference_mode()
def gains(
    network: DenoiserLike, noise: Tensor, table: SolverTable, sizes: Sequence[int], seeds: Sequence[int]
) -> Array:
    """Squared gains, summed over the samples of each unit, shape ``(u,)``. Costs two roll-outs.

    Their sum over the number of samples is the mean; take its root.

    Args:
        network: The network.
        noise: First states ``(B, *)``.
        table: The sampler.
        sizes: Samples of each unit; they sum up to B.
        seeds: Of the errors, one per unit.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def wrong(x: Tensor, sigma: float, /) -> Tensor:
        out = network(x, sigma)
        parts = zip(sizes, generators, strict=True)
        errors = [torch.randn(n, *out.shape[1:], generator=one, dtype=torch.float32) for n, one in parts]
        return out + EPSILON * torch.cat(errors).to(out)

    moved, end = Run(noise, table).finish(wrong), Run(noise, table).finish(network)
    squared = (double(moved) - double(end)).square().flatten(1).mean(1)
    ends = np.cumsum([0, *sizes]).tolist()
    return np.array([float(squared[begin:end].sum()) / EPSILON**2 for begin, end in pairwise(ends)])


def largest_weights(table: SolverTable) -> float:
    """Largest sum of absolute weights of outputs in a row of the normal form; 1 for DDIM from pure noise."""
    return float(np.abs(table.b).sum(1).max())
