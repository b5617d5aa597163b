r"""DPM-Solver-v3: an exponential multistep solver whose linear part is measured on the model, with scalar statistics.

With :math:`y = x/\alpha` and :math:`\lambda = \log(\alpha/\sigma)` the ODE is :math:`dy/d\lambda = D - y`. For any
:math:`l(\lambda)` it splits into a linear and a remaining part,

.. math:: \frac{dy}{d\lambda} = -l\,y - N, \qquad N = (1 - l)\,y - D,

where l = 1 leads to data prediction (s = 0 below) and l = 0 to noise prediction (s = -1). Three *empirical model
statistics* make what a step has to extrapolate as flat as can be:

* :math:`l = 1 - \mathrm{E}\,\mathrm{tr}(\partial D/\partial y) / \dim`, which minimises
  :math:`\mathrm{E}\|\partial N/\partial y\|_F^2`, the first-order discretisation term;
* s and b, the regression of the total derivative :math:`dN/d\lambda` on ``N``: what is extrapolated is
  :math:`g = e^{-S} N - \int e^{-S} b` with :math:`S = \int s`, whose derivative is :math:`e^{-S}(N' - sN - b)`.

With :math:`L = \int l` from the start of the step, where :math:`S = L = 0`, the exact solution is

.. math:: y_t = e^{-L_t}\Bigl[y_s - \int_s^t e^{L + S} g\, d\lambda\Bigr]

and ``g`` is replaced by the polynomial through the latest outputs. With the corrector a step is taken once more when
the output at its end is known, and the corrected state is where the next step starts.

Reference: Zheng, Lu, Chen, Zhu, DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics,
NeurIPS 2023. https://arxiv.org/abs/2310.13268

Simplified or adapted:

* The statistics are one number per level where the paper has one per level and pixel: with tens of calibration samples
  in place of a thousand or more, numbers per pixel would be mostly noise.
* b is left out, and s is the regression through the origin: a constant added to every pixel is not linear in the
  outputs, and a table cannot hold it. On centred data scalar b is nearly 0 anyway.
* The trace is Hutchinson's estimate with random signs, by a forward difference. Total derivatives are difference
  quotients along the teacher's trajectories, which the task gives, in place of Jacobian-vector products.
* Integrals are sums over a fine grid in place of the paper's cumulative sums over 120 or more levels.
* Order, corrector, whether s is used, whether orders fall at the end, and the grid are chosen per task on all
  calibration samples, as the paper chooses its options per number of calls.
* A process that starts at alpha = 0 (lambda is infinite) takes its first step with DDIM.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peer_task import Found, OutOfBudget, Task
from benchmarks.peers.anchor import grids
from benchmarks.peers.common import rmse, rolled, table_of
from longstride.schedule import Schedule
from longstride.table import SolverTable

LABEL = "DPM-Solver-v3"
BACKPROP = False
#: Width of the difference quotient for the trace, in units of sigma.
WIDTH = 0.05
#: Most calibration samples for the statistics.
SAMPLES = 32
#: Points of the integrals within a step.
POINTS = 401

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Statistics by ``lambda``; linear between the levels, constant beyond.

    Attributes:
        lambdas: Rising, shape ``(M,)``.
        l: Shape ``(M,)``.
        s: Shape ``(M,)``.
    """

    lambdas: Array
    l: Array  # noqa: E741
    s: Array

    def __post_init__(self) -> None:
        assert np.all(np.diff(self.lambdas) > 0)

    def integrals(self, start: float, lam: Array) -> tuple[Array, Array]:
        """``L`` and ``S`` from ``start`` to each of ``lam``."""
        points = np.unique(np.concatenate([self.lambdas, lam, [start]]))
        steps = np.diff(points)
        found = []
        for values in (self.l, self.s):
            at = np.interp(points, self.lambdas, values)
            total = np.concatenate([[0.0], np.cumsum(steps * (at[1:] + at[:-1]) / 2)])
            found.append(np.interp(lam, points, total) - np.interp(start, points, total))
        return found[0], found[1]


def measure(task: Task) -> Statistics:
    """The statistics along the teacher's trajectories.

    Raises:
        OutOfBudget: the budget does not allow two levels.
    """
    solution, budget = task.solution, task.meter.budget
    count = min(SAMPLES, len(task.noise))
    part = slice(0, count)
    usable = [i for i in range(len(solution.outputs)) if solution.alphas[i] > 0 and solution.sigmas[i] > 0]
    most = len(usable) if budget is None else min(len(usable), (budget - task.meter.calls) // (2 * count))
    if most < 2:
        raise OutOfBudget
    chosen = sorted({usable[round(v)] for v in np.linspace(0, len(usable) - 1, most)})
    lambdas = np.log(solution.alphas[usable]) - np.log(solution.sigmas[usable])
    traces = np.array([_trace(task, i, part) for i in chosen])
    at = np.log(solution.alphas[chosen]) - np.log(solution.sigmas[chosen])
    linear = np.interp(lambdas, at, 1 - traces)
    remaining = [
        (1 - linear[n]) * solution.states[i][part].double() / float(solution.alphas[i])
        - solution.outputs[i][part].double()
        for n, i in enumerate(usable)
    ]
    slopes = _slopes(remaining, lambdas)
    growth = [float((n * d).sum() / n.square().sum()) for n, d in zip(remaining, slopes, strict=True)]
    return Statistics(lambdas, linear, np.array(growth))


def _trace(task: Task, i: int, part: slice) -> float:
    """Mean diagonal entry of ``dD/dy`` at level ``i`` of the teacher."""
    x, output = task.solution.states[i][part], task.solution.outputs[i][part]
    alpha, sigma = float(task.solution.alphas[i]), float(task.solution.sigmas[i])
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(task.seed * 1000 + i))
    direction = (2 * signs - 1).to(x)
    moved = task.call(x + WIDTH * sigma * direction, sigma, part)
    return alpha * float(((moved - output) * direction).double().mean()) / (WIDTH * sigma)


def _slopes(values: list[Tensor], lambdas: Array) -> list[Tensor]:
    """Derivatives by lambda: of the parabola through three neighbours, at the ends of the line through two."""
    slopes = []
    for n in range(len(values)):
        low, high = max(0, n - 1), min(len(values) - 1, n + 1)
        if low == n or high == n:
            slopes.append((values[high] - values[low]) / (lambdas[high] - lambdas[low]))
            continue
        before, after = lambdas[n] - lambdas[low], lambdas[high] - lambdas[n]
        left, right = (values[n] - values[low]) / before, (values[high] - values[n]) / after
        slopes.append((left * after + right * before) / (before + after))
    return slopes


def build(
    statistics: Statistics,
    sigmas: Array,
    schedule: Schedule,
    order: int = 2,
    corrector: bool = True,
    lower_order_final: bool = True,
) -> SolverTable:
    """The solver on some levels.

    Args:
        statistics: Of the model.
        sigmas: Levels, shape ``(K + 1,)``, the last positive.
        schedule: The model's.
        order: Of the predictor: number of outputs that it reads; the corrector reads one more.
        corrector: Whether to correct.
        lower_order_final: Whether the order falls to 1 over the last steps.
    """
    calls, alphas = len(sigmas) - 1, schedule.frame_alpha(sigmas)
    with np.errstate(divide="ignore"):
        lambdas = np.log(alphas) - np.log(sigmas)
    output = np.eye(calls, calls + 1, 1)  # every state and output as weights of x_0, D_0, D_1, …
    states = [np.eye(1, calls + 1)[0]]
    start = states[0]
    for k in range(calls):
        if not np.isfinite(lambdas[k]):
            ratio = sigmas[k + 1] / sigmas[k]
            states.append(ratio * start + (alphas[k + 1] - alphas[k] * ratio) * output[k])
            start = states[-1]
            continue
        finite = int(np.isfinite(lambdas[: k + 1]).sum())
        usable = min(order, finite, calls - k if lower_order_final else order)
        seen = [k - j for j in range(usable)]
        states.append(_step(statistics, alphas, lambdas, states, output, start, k, seen))
        if corrector and k + 1 < calls:
            start = _step(statistics, alphas, lambdas, states, output, start, k, [*seen, k + 1])
        else:
            start = states[-1]
    form = np.stack(states)
    return table_of("dpm_solver_v3", form[:, 0], form[:, 1:], sigmas, alphas)


def _step(
    statistics: Statistics,
    alphas: Array,
    lambdas: Array,
    states: list[Array],
    output: Array,
    start: Array,
    k: int,
    seen: list[int],
) -> Array:
    """State ``k + 1`` from ``start`` at level ``k``, with ``g`` the polynomial through the outputs ``seen``."""
    fine = np.linspace(lambdas[k], lambdas[k + 1], POINTS)
    linear, growth = statistics.integrals(lambdas[k], fine)
    _, at_seen = statistics.integrals(lambdas[k], lambdas[seen])
    rates = np.interp(lambdas[seen], statistics.lambdas, statistics.l)
    total = start / alphas[k]
    for n, j in enumerate(seen):
        others = [lambdas[m] for m in seen if m != j]
        lagrange = np.prod([(fine - o) / (lambdas[j] - o) for o in others], axis=0) if others else np.ones(POINTS)
        weight = float(np.trapezoid(np.exp(linear + growth - at_seen[n]) * lagrange, fine))
        # The network saw the predicted state, so that is what belongs to its output.
        total = total - weight * ((1 - rates[n]) * states[j] / alphas[j] - output[j])
    found: Array = alphas[k + 1] * math.exp(-linear[-1]) * total
    return found


def find(task: Task) -> Found:
    """Measure the statistics, then choose the options; see the module."""
    best, least, tried = task.base, math.inf, {}
    chosen: dict[str, Any] = {}
    every = slice(0, len(task.noise))
    try:
        statistics = measure(task)
        for (spacing, sigmas), order, corrector, use_s, lower in itertools.product(
            grids(task).items(), (1, 2, 3), (True, False), (True, False), (True, False)
        ):
            if order == 1 and not lower:
                continue
            used = statistics if use_s else replace(statistics, s=np.zeros_like(statistics.s))
            table = build(used, sigmas, task.schedule, order, corrector, lower)
            options = {"grid": spacing, "order": order, "corrector": corrector, "s": use_s, "lower_order_final": lower}
            error = rmse(rolled(task, task.noise, table, every), task.target)
            tried[", ".join(f"{name} {value}" for name, value in options.items())] = error
            if error < least:
                best, least, chosen = table, error, options
    except OutOfBudget:
        pass
    return Found(best, {**chosen, "rmse": least, "tried": tried})
