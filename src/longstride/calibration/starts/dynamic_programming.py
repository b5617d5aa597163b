r"""Levels that are made for a network: by dynamic programming, along reference trajectories.

In :math:`x / \alpha`, trajectories hardly leave the straight line through their two ends. The cost of a step from one
level to another is a difference of two distances from this line, summed over samples: the distance of DDIM's end, less
the distance of the trajectory at that level. An error along the line does not count, since the next call mends it.

References:
    Chen, Zhou, Wang, Shen, Lyu, On the Trajectory Regularity of ODE-based Diffusion Sampling, ICML 2024,
    arXiv 2405.11326.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double
from longstride.calibration.reference.solve import converged_nodes
from longstride.calibration.reference.trajectory import FINE, DenseSolution, solve_dense
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.errors import InputError
from longstride.table import SolverTable

__all__ = ["DISCOUNTS", "TRAJECTORIES", "best_levels", "own_levels", "step_costs"]

#: Number of fitted samples whose reference trajectories choose levels.
TRAJECTORIES = 16
#: Discounts gamma of grids by name: 1.1 for straight flows, 1.2 for strong guidance. With the published choice of 1
#: hardly a level lies near the end.
DISCOUNTS = {"dp": 1.1, "dp_late": 1.2}


def step_costs(solution: DenseSolution) -> Array:
    """Cost of DDIM's step from each level of a reference run of N steps to each later level, summed over samples.

    No network is called.

    Returns:
        Shape ``(N + 1, N + 1)``; infinite for a step that does not go down.
    """
    n = len(solution.sigmas)
    states = [double(x).flatten(1) for x in solution.states]
    end = states[-1] / float(solution.alphas[-1])
    # At alpha 0 the first state is the direction of the noise: x / alpha is infinitely far.
    line = states[0] - float(solution.alphas[0]) * end
    line = line / line.norm(dim=1, keepdim=True)

    def aside(x: Tensor) -> Tensor:
        across: Tensor = x - (x * line).sum(1, keepdim=True) * line
        return across

    own = [
        aside(x / alpha - end).norm(dim=1) if alpha > 0 else torch.zeros(len(x)).to(x)
        for x, alpha in zip(states, solution.alphas.tolist(), strict=True)
    ]
    ratios = torch.from_numpy(solution.sigmas / np.maximum(solution.alphas, 1e-300)).to(end)
    cost = np.full((n, n), np.inf)
    for i in range(min(n - 1, len(solution.outputs))):
        output = double(solution.outputs[i]).flatten(1)
        still = aside(output - end)
        turning = aside((states[i] - float(solution.alphas[i]) * output) / float(solution.sigmas[i]))
        for j in range(i + 1, n):
            cost[i, j] = float(((still + ratios[j] * turning).norm(dim=1) - own[j]).sum())
    return cost


def best_levels(sigmas: Array, cost: Array, steps: int, discount: float) -> Array:
    r"""Levels of the path of ``steps`` steps with the least :math:`\sum_k \gamma^k c_k`, by dynamic programming.

    Args:
        sigmas: The levels to choose among, falling, shape ``(N + 1,)``.
        cost: Cost of a step from each level to each level; see :func:`step_costs`. Its scale does not matter.
        steps: Number of steps, at most N.
        discount: Gamma; above 1, since later steps mend early errors, and no step mends a late error.

    Returns:
        Shape ``(steps + 1,)``, from the first level to the last.

    Raises:
        InputError: there are too few levels.
    """
    n = len(sigmas)
    if not 1 <= steps < n:
        raise InputError(f"{steps} steps cannot be chosen among {n} levels")
    left, choices = np.append(np.full(n - 1, np.inf), 0.0), []
    for _ in range(steps):
        total = cost + discount * left
        choices.append(total.argmin(1))
        left = total.min(1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return sigmas[path].copy()


def own_levels(samples: Samples, table: SolverTable) -> dict[str, Array]:
    """Levels of the grids of :data:`DISCOUNTS`, from reference trajectories of a few fitted samples.

    Args:
        samples: The samples.
        table: Gives the two ends and the number of steps.
    """
    sigmas = converged_nodes(table, FINE, samples.floor).sigmas

    def costs(batch: Batch) -> list[Array]:
        few = slice(0, int((batch.numbers < TRAJECTORIES).sum()))
        found = solve_dense(batch.network.select(few), batch.noise[few], table, steps=FINE, sigma_floor=samples.floor)
        return [step_costs(found.select(slice(part.start, min(part.stop, few.stop)))) for part in batch.slices]

    shape = (len(sigmas), len(sigmas))
    cost = np.sum(samples.map("levels", samples.units.first(TRAJECTORIES), costs, lambda b: shape), axis=0)
    return {name: best_levels(sigmas, cost, table.nfe, discount) for name, discount in DISCOUNTS.items()}
