r"""DMN: levels that minimise a bound on the sampling error, without a single network call.

A multistep solver in :math:`\lambda = \log(\alpha/\sigma)` replaces the network's clean prediction over a step by the
polynomial through the last outputs and integrates it exactly. Its last state is then
:math:`x_K = \sigma_K (x_0 / \sigma_0 + \sum_j w_j D_j)`, where

.. math:: w_j = \sum_i \int_{\lambda_i}^{\lambda_{i+1}} e^{\lambda}\, \ell_{ij}(\lambda)\, d\lambda

sums over the steps i that use output j, with the Lagrange polynomial :math:`\ell_{ij}` of output j in step i. If the
prediction at level j is wrong by at most :math:`\tilde\epsilon_j`, the result is wrong by at most a multiple of

.. math:: \sum_j \tilde\epsilon_j |w_j|, \qquad \tilde\epsilon_j = \sigma_j^p / \alpha_j,

(in the variance-preserving scale), and the levels :math:`\lambda_1 < \dots < \lambda_{K-1}` minimise that sum between
the two fixed ends. UniPC runs on them.

Reference: Xue, Liu, Chen, Zhang, Hu, Xie, Li, Accelerating diffusion sampling with optimized time steps, CVPR 2024.
https://arxiv.org/abs/2402.17376

Settings: order 3, with the orders of UniPC's own steps (rising at the start, falling at the end); p = 1; the search
starts from levels even in lambda, which the authors recommend for networks on pixels.

Adapted:

With few steps the sum over steps has spurious minima, where levels are chosen so that weights of opposite sign cancel
in every :math:`w_j`; the authors' code also treats 7 and fewer calls apart for numerical stability. Here the absolute
value then goes inside the sum over steps (a looser bound that nothing cancels in); above 7 the bound is the paper's.

The paper hands the problem to a trust-region method for constraints; here a small evolution strategy (one
parent, one child, step size by the one-fifth rule) moves the logarithms of the widths in lambda, whose softmax keeps
the order and the ends by itself. The problem has a handful of unknowns and costs microseconds, so that either finds
the minimum.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer_task import Found, Task
from benchmarks.peers.common import grid_of, ratio_range
from longstride.solvers import build

LABEL = "DMN"
BACKPROP = False

ORDER = 3
POWER = 1.0
#: Up to this many steps every weight counts by itself.
FEW_STEPS = 7
TRIALS = 4000

Array = NDArray[np.float64]


def find(task: Task) -> Found:
    """Levels of least bound, then UniPC."""
    high, low = ratio_range(task)
    ends = (-math.log(high), -math.log(low))
    lambdas = optimise(ends, task.nfe, np.random.default_rng(task.seed))
    sigmas = grid_of(task, np.exp(-lambdas))
    start = np.linspace(*ends, task.nfe + 1)
    about = {"solver": "unipc", "order": ORDER, "p": POWER, "bound": bound(lambdas), "bound_at_start": bound(start)}
    return Found(build("unipc", sigmas, schedule=task.schedule, order=ORDER), about)


def weights(lambdas: Array, order: int = ORDER) -> Array:
    """Weight of output j (columns) in step i (rows), relative to ``e^lambda`` of the last level; shape ``(K, K)``."""
    steps = len(lambdas) - 1
    found = np.zeros((steps, steps))
    for i in range(steps):
        used = min(order, i + 1, steps - i)
        nodes = lambdas[i - used + 1 : i + 1] - lambdas[i]
        h = lambdas[i + 1] - lambdas[i]
        # int_0^h e^(u - h) u^n du, n = 0, 1, ...: by parts.
        moments = [-math.expm1(-h)]
        for n in range(1, used):
            moments.append(h**n - n * moments[-1])
        # Weights that integrate 1, u, u^2, ... exactly are those of the Lagrange polynomials.
        exact = np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(moments))
        found[i, i - used + 1 : i + 1] = exact * math.exp(lambdas[i + 1] - lambdas[-1])
    return found


def bound(lambdas: Array, power: float = POWER) -> float:
    """The bound on the error of the last state; see the module's text."""
    ratios = np.exp(-lambdas[:-1])
    alphas = 1 / np.hypot(1.0, ratios)
    used = weights(lambdas)
    total = np.abs(used).sum(0) if len(ratios) <= FEW_STEPS else np.abs(used.sum(0))
    return float(np.sum((ratios * alphas) ** power / alphas * total))


def optimise(ends: tuple[float, float], steps: int, rng: np.random.Generator) -> Array:
    """``lambda_0 … lambda_K`` of least bound between fixed ends."""

    def levels(z: Array) -> Array:
        shares = np.exp(z - z.max())
        inner = ends[0] + (ends[1] - ends[0]) * np.cumsum(shares / shares.sum())
        return np.concatenate([[ends[0]], inner[:-1], [ends[1]]])

    best, width = np.zeros(steps), 0.3
    value = bound(levels(best))
    if steps == 1:
        return levels(best)
    for _ in range(TRIALS):
        trial = best + width * rng.standard_normal(steps)
        if float(np.diff(levels(trial)).min()) > 1e-3 * (ends[1] - ends[0]) / steps:
            found = bound(levels(trial))
            if found < value:
                best, value, width = trial, found, width * 1.5
                continue
        width = max(width * 1.5**-0.25, 1e-5)
    return levels(best)
