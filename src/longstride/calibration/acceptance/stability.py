r"""How much a table amplifies errors of the network's outputs.

Rounding, quantisation or a small change of the model put errors on a network's outputs. Independent errors of
root-mean-square size :math:`\epsilon` on all outputs :math:`D_j` change the last state by

.. math:: \epsilon\, \Big(\sum_j \| \partial x_K / \partial D_j \|^2\Big)^{1/2},

whose derivatives go through all later network calls. The factor of epsilon is the *gain* of the table on this network.
One more roll-out, with a small random error on every output, measures the gain. Large weights of opposite signs give a
large gain, however well the table fits. No network is needed for :math:`\max_k \sum_j |b_{kj}|`, which bounds the gain
on a network that does not react to its input.
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

#: Root-mean-square size of the random errors: like rounding in half precision, and well above rounding in float32.
EPSILON = 2e-3


@torch.inference_mode()
def gains(
    network: DenoiserLike, noise: Tensor, table: SolverTable, sizes: Sequence[int], seeds: Sequence[int]
) -> Array:
    """Squared gains, summed over the samples of each unit, shape ``(u,)``. Costs two roll-outs.

    The gain is the root of their mean over all samples.

    Args:
        network: The network.
        noise: First states ``(B, *)``.
        table: The sampler.
        sizes: Number of samples of each unit; the sum is B.
        seeds: Seeds of the errors, one per unit.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    moved = Run(noise, table)
    while moved.k < table.nfe:
        out = moved.ask(network)
        parts = zip(sizes, generators, strict=True)
        errors = [torch.randn(n, *out.shape[1:], generator=one, dtype=torch.float32) for n, one in parts]
        moved.see(out + EPSILON * torch.cat(errors).to(out))
        moved.advance()
    end = Run(noise, table).finish(network)
    squared = (double(moved.x) - double(end)).square().flatten(1).mean(1)
    ends = np.cumsum([0, *sizes]).tolist()
    return np.array([float(squared[begin:end].sum()) / EPSILON**2 for begin, end in pairwise(ends)])


def largest_weights(table: SolverTable) -> float:
    """Largest sum of absolute weights of outputs in a row of the normal form; 1 for DDIM from pure noise."""
    return float(np.abs(table.b).sum(1).max())
