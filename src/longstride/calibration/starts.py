"""Where a fit may start: every classical solver on every grid, between the two ends of a table.

The fit is not convex, so where it starts matters; under strong guidance it decides. Beside the usual grids there are
two that are made for the network: levels by dynamic programming, such that DDIM's own steps along converged
trajectories leave them by least in all; errors of later steps count a little more, or more than that.

References:
    Chen, Zhou, Wang, Shen, Lyu, On the Trajectory Regularity of ODE-based Diffusion Sampling, ICML 2024,
    arXiv 2405.11326, for levels by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.calibration.dense import DenseSolution
from longstride.calibration.normal_equations import double
from longstride.errors import InputError
from longstride.grid import Final, grid
from longstride.schedule import Flow, Schedule
from longstride.solvers import build, steps_for_nfe
from longstride.table import SolverTable

__all__ = ["CLASSICAL", "DISCOUNTS", "best_levels", "classical_tables"]

Array = NDArray[np.float64]

#: Grids by dynamic programming: how much more than an error of the step before it an error counts, of the published
#: choices (1 to 1.2) two. With 1 hardly a level lies near the end; straight flows want 1.1, strong guidance 1.2.
DISCOUNTS: Mapping[str, float] = {"dp": 1.1, "dp_late": 1.2}
#: Classical solvers of one call per step: name, builder and options.
CLASSICAL: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
    "ipndm2": ("ipndm", {"order": 2}),
    "ipndm3": ("ipndm", {"order": 3}),
    "ipndm4": ("ipndm", {"order": 4}),
    "deis3": ("deis", {"order": 3}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_3m": ("dpmpp_3m", {}),
    "unipc2": ("unipc", {"order": 2}),
    "unipc3": ("unipc", {"order": 3}),
}


def classical_tables(
    like: SolverTable,
    schedule: Schedule | None = None,
    floor: float | None = None,
    own: Mapping[str, Array] | None = None,
    solvers: Mapping[str, tuple[str, dict[str, Any]]] = CLASSICAL,
) -> dict[str, SolverTable]:
    """Classical solvers by ``solver@grid``, with the calls and the first and last level of a table.

    Args:
        like: The table.
        schedule: The network's; without one, only grids that need no network time are made.
        floor: Least positive level, for tables that end at sigma 0; default: the least of ``like``.
        own: Levels of further grids by name, such as those of :data:`DISCOUNTS`; see :func:`best_levels`.
        solvers: Name, builder and options of each.
    """
    final: Final = "zero" if like.sigmas[-1] == 0 else "sigma_min"
    positive = like.sigmas[like.sigmas > 0]
    low = float(positive.min()) if final == "sigma_min" or floor is None else floor
    high = float(like.sigmas[0])
    # SD3's levels, for flows that do not have them anyway.
    shifted = replace(schedule, shift=3.0) if isinstance(schedule, Flow) and schedule.shift != 3 else None
    own, found = own or {}, dict[str, SolverTable]()
    for name, (solver, options) in solvers.items():
        try:
            steps = steps_for_nfe(solver, like.nfe, final_zero=final == "zero", **options)
        except InputError:
            continue
        for spacing in ("karras", "log_snr", "uniform", "quadratic", "shift3", *own):
            try:
                if spacing in own:
                    levels = own[spacing].copy() if len(own[spacing]) == steps + 1 else None
                elif spacing == "shift3":
                    levels = None if shifted is None else grid("uniform", steps, schedule=shifted, final=final)
                elif spacing in ("karras", "log_snr"):
                    levels = grid(spacing, steps, schedule=schedule, sigma_min=low, sigma_max=high, final=final)
                else:
                    levels = None if schedule is None else grid(spacing, steps, schedule=schedule, final=final)
                if levels is None or not np.allclose(levels[[0, -1]], like.sigmas[[0, -1]], rtol=1e-6):
                    continue  # a grid of the whole schedule, where the table begins or ends elsewhere
                levels[0], levels[-1] = like.sigmas[0], like.sigmas[-1]
                table = build(solver, levels, schedule=schedule, **options)
            except InputError:  # too few levels for this solver, or levels that meet
                continue
            if np.array_equal(table.alphas[[0, -1]], like.alphas[[0, -1]]):
                found[f"{name}@{spacing}"] = table
    return found


def best_levels(solution: DenseSolution, steps: int, discount: float) -> Array:
    r"""Levels, chosen among those of a converged run, that DDIM's steps along it leave it by least on, in all.

    Seen as :math:`x / \alpha`, trajectories hardly leave the straight line through their two ends. The cost of a step
    from level i to j is how much farther from that line DDIM ends than the run itself is at j, in the mean over
    samples; where along the line it ends, the next call mends. Dynamic programming finds the path of ``steps`` steps
    with the least :math:`\sum_k \gamma^k c_k`; with gamma > 1, since what goes wrong late stays. No network is called.

    Args:
        solution: A converged run.
        steps: Steps N; fewer than it has.
        discount: Gamma.

    Returns:
        Shape ``(N + 1,)``, from its first level to its last.

    Raises:
        InputError: it has too few levels.
    """
    n = len(solution.sigmas)
    if not 1 <= steps < n:
        raise InputError(f"{steps} steps cannot be chosen among {n} levels")
    states = [double(x).flatten(1) for x in solution.states]
    end = states[-1] / float(solution.alphas[-1])
    # Where alpha begins at 0 the first state is the direction of the noise, and its point lies infinitely far.
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
            cost[i, j] = float(((still + ratios[j] * turning).norm(dim=1) - own[j]).mean())
    left, choices = np.append(np.full(n - 1, np.inf), 0.0), []
    for _ in range(steps):
        total = cost + discount * left
        choices.append(total.argmin(1))
        left = total.min(1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return solution.sigmas[path].copy()
