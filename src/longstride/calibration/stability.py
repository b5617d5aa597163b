r"""How much a table amplifies what is wrong with its inputs.

A network's outputs are wrong by rounding, quantisation, or because the model was changed a little. If every output
:math:`D_j` is off by an independent error of root-mean-square size :math:`\epsilon`, the last state is off by

.. math:: \epsilon\, \Big(\sum_j \| \partial x_K / \partial D_j \|^2\Big)^{1/2},

where the derivative follows the error through the network calls behind it. Its square root is measured by one more
roll-out with a small random error on every output: the *gain* of the table on this network. A table that leaned on
large weights of opposite signs would have a large one, however well it fits. ``b`` alone gives a number, too, without
any network: :attr:`Stability.weights`, the largest sum of absolute weights of a row, which bounds the gain of a network
that does not react to its input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.normal_equations import double
from longstride.sampler import DenoiserLike, Run
from longstride.table import SolverTable

__all__ = ["Stability", "gain", "largest_weights"]

#: Root-mean-square size of the errors that are made: like half precision's, and well above float32's own.
EPSILON = 2e-3


@dataclass(frozen=True)
class Stability:
    """Of a table and of its base.

    Attributes:
        gain: Root-mean-square change of the last state per size of independent errors on all outputs.
        base_gain: The same of the base.
        weights: Largest sum of absolute weights of outputs in a row of the normal form.
        base_weights: The same of the base.
    """

    gain: float
    base_gain: float
    weights: float
    base_weights: float


@torch.inference_mode()
def gain(denoiser: DenoiserLike, noise: Tensor, table: SolverTable, seed: int = 0) -> float:
    """Squared gain, summed over samples: divide by their number and take the root. Costs two roll-outs.

    Args:
        denoiser: The network.
        noise: First states ``(B, *)``.
        table: The sampler.
        seed: Of the errors.
    """
    generator = torch.Generator().manual_seed(seed)

    def wrong(x: Tensor, sigma: float, /) -> Tensor:
        out = denoiser(x, sigma)
        error = torch.randn(out.shape, generator=generator, dtype=torch.float32).to(out)
        return out + EPSILON * error

    moved, end = Run(noise, table).finish(wrong), Run(noise, table).finish(denoiser)
    return float((double(moved) - double(end)).square().flatten(1).mean(1).sum()) / EPSILON**2


def largest_weights(table: SolverTable) -> float:
    """Largest sum of absolute weights of outputs in a row of the normal form; 1 for DDIM from pure noise."""
    return float(np.abs(table.b).sum(1).max())
