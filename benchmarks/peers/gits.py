r"""GITS: levels by dynamic programming over the local errors of Euler steps along the teacher's trajectories.

All trajectories of a network bend alike, so one set of levels fits all of them. Candidates are the levels
:math:`s_0 > \dots > s_N` of a teacher's run with many steps. Jumping from candidate i to candidate j by one Euler
(that is, DDIM) step costs

.. math:: c_{ij} = \mathbb{E}\left[ d(\text{DDIM}_{i \to j}(x_{s_i})) - d(x_{s_j}) \right],

where d is the deviation: the distance of a state from the straight line through both ends of its trajectory. All
pairs are known from the teacher's states and outputs alone. The best K jumps from the first to the last candidate
follow from the recursion over the number of jumps that are left,

.. math:: V_k(i) = \min_{j > i} \left[ c_{ij} + \gamma V_{k-1}(j) \right], \qquad V_0(N) = 0,

with :math:`\gamma > 1`: an error of a later step counts more. iPNDM then runs on the levels found.

Reference: Chen, Zhou, Wang, Shen, Lyu, On the trajectory regularity of ODE-based diffusion sampling, ICML 2024.
https://arxiv.org/abs/2405.11326

Settings are the published ones: gamma = 1.15, 61 candidates even in ``sigma^(1/7)``, the deviation as the measure,
iPNDM.

Adapted:

- The teacher is the converged solution that all peers are given (the paper: iPNDM with 60 steps, 256 samples), and
  candidates are those of its own levels that lie nearest to the polynomial ones. Its outputs there are known, so that
  the levels cost no network call, as in the paper, where the teacher's run is the whole cost.
- gamma (1 to 1.2) and the order of iPNDM (2 to 4) are the user's choice; here the best on the calibration samples,
  which costs calls of this peer's own.
- States are divided by alpha where the network's frame does not do it, so that noise and data form straight lines.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peer_task import Found, OutOfBudget, Task
from benchmarks.peers.common import ratio_range, rmse, rolled
from longstride.solvers import build

LABEL = "GITS"
BACKPROP = False

#: The published default first, which is returned if the budget allows no choice.
GAMMAS = (1.15, 1.0, 1.05, 1.1, 1.2)
ORDERS = (4, 3, 2)
CANDIDATES = 61

Array = NDArray[np.float64]


def find(task: Task) -> Found:
    """Levels by dynamic programming, then iPNDM."""
    chosen = candidates(task)
    cost = costs(task, chosen)
    train, target = slice(0, len(task.noise)), task.target
    best, least, settings, tried = None, math.inf, (GAMMAS[0], ORDERS[0]), {}
    seen: set[tuple[int, ...]] = set()
    try:
        for gamma in GAMMAS:
            path = best_path(cost, task.nfe, gamma)
            if tuple(path) in seen:
                continue
            seen.add(tuple(path))
            sigmas = task.solution.sigmas[chosen[path]].copy()
            sigmas[0], sigmas[-1] = task.sigma_max, task.sigma_min
            for order in ORDERS:
                table = build("ipndm", sigmas, schedule=task.schedule, order=order)
                best = table if best is None else best
                error = rmse(rolled(task, task.noise, table, train), target)
                tried[f"gamma {gamma:g}, order {order}"] = error
                if error < least:
                    best, least, settings = table, error, (gamma, order)
    except OutOfBudget:
        pass
    assert best is not None
    about = {"solver": "ipndm", "gamma": settings[0], "order": settings[1], "candidates": len(chosen), "tried": tried}
    return Found(best, about)


def candidates(task: Task) -> NDArray[np.int64]:
    """Indices of the teacher's levels that may be chosen, from the first to the last."""
    count = len(task.solution.sigmas)
    if count <= CANDIDATES:
        return np.arange(count)
    with np.errstate(divide="ignore"):
        logs = np.log(task.solution.sigmas) - np.log(task.solution.alphas)
    high, low = ratio_range(task)
    wanted = np.log(np.linspace(high ** (1 / 7), low ** (1 / 7), CANDIDATES) ** 7)
    nearest = np.abs(np.where(np.isfinite(logs), logs, np.log(high))[None] - wanted[:, None]).argmin(1)
    return np.unique(np.concatenate([[0], nearest, [count - 1]]))


def costs(task: Task, chosen: NDArray[np.int64]) -> Array:
    """How much one Euler step from candidate i deviates more than the teacher at candidate j; infinite for j <= i."""
    solution = task.solution
    sigmas, alphas = solution.sigmas[chosen], solution.alphas[chosen]
    states = [solution.states[i].flatten(1) for i in chosen]
    # With alpha = 0 at the first level its state stands for a point at infinity: the direction of the noise.
    end = states[-1] / float(alphas[-1])
    line = states[0] - float(alphas[0]) * end

    def deviation(state: Tensor, alpha: float) -> float:
        away = state / alpha - end
        along = (away * line).sum(1, keepdim=True) / line.square().sum(1, keepdim=True)
        return float((away - along * line).norm(dim=1).mean())

    own = [deviation(state, float(alpha)) if alpha > 0 else 0.0 for state, alpha in zip(states, alphas, strict=True)]
    table = np.full((len(chosen), len(chosen)), np.inf)
    for i, index in enumerate(chosen[:-1]):
        output = solution.outputs[index].flatten(1)
        for j in range(i + 1, len(chosen)):
            ratio = float(sigmas[j] / sigmas[i])
            step = ratio * states[i] + (float(alphas[j]) - float(alphas[i]) * ratio) * output
            table[i, j] = deviation(step, float(alphas[j])) - own[j]
    return table


def best_path(cost: Array, jumps: int, gamma: float) -> list[int]:
    """The ``jumps + 1`` indices from 0 to the last one that minimise ``sum_k gamma^k cost`` of the k-th jump."""
    last = len(cost) - 1
    value = np.full(last + 1, np.inf)
    value[last] = 0.0
    choices: list[NDArray[np.int64]] = []
    for _ in range(jumps):
        total = cost + gamma * value[None, :]
        choices.append(total.argmin(1))
        value = total.min(1)
    if not np.isfinite(value[0]):
        raise ValueError(f"there are no {jumps} jumps among {last + 1} candidates")
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path
