"""Where a fit may start: every classical solver on every grid, between the two ends of a table.

The fit is not convex, so where it starts matters; under strong guidance it decides. Beside the usual grids there is one
that is made for the network: levels by dynamic programming, such that DDIM's own steps along converged trajectories
are wrong by least in all.

References:
    Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, 2024, for levels by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longstride.calibration.dense import DenseSolution
from longstride.calibration.normal_equations import double
from longstride.errors import InputError
from longstride.grid import Final, grid
from longstride.schedule import Flow, Schedule
from longstride.solvers import build, steps_for_nfe
from longstride.table import SolverTable

__all__ = ["CLASSICAL", "best_levels", "classical_tables"]

Array = NDArray[np.float64]

#: Classical solvers of one call per step: name, builder and options.
CLASSICAL: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
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
    own: Array | None = None,
    solvers: Mapping[str, tuple[str, dict[str, Any]]] = CLASSICAL,
) -> dict[str, SolverTable]:
    """Classical solvers by ``solver@grid``, with the calls and the first and last level of a table.

    Args:
        like: The table.
        schedule: The network's; without one, only grids that need no network time are made.
        floor: Least positive level, for tables that end at sigma 0; default: the least of ``like``.
        own: Levels of the grid ``dp``, see :func:`best_levels`; None: without it.
        solvers: Name, builder and options of each.
    """
    final: Final = "zero" if like.sigmas[-1] == 0 else "sigma_min"
    positive = like.sigmas[like.sigmas > 0]
    low = float(positive.min()) if final == "sigma_min" or floor is None else floor
    high = float(like.sigmas[0])
    # SD3's levels, for flows that do not have them anyway.
    shifted = replace(schedule, shift=3.0) if isinstance(schedule, Flow) and schedule.shift != 3 else None
    found: dict[str, SolverTable] = {}
    for name, (solver, options) in solvers.items():
        try:
            steps = steps_for_nfe(solver, like.nfe, final_zero=final == "zero", **options)
        except InputError:
            continue
        for spacing in ("karras", "log_snr", "uniform", "quadratic", "shift3", "dp"):
            try:
                if spacing == "dp":
                    levels = None if own is None or len(own) != steps + 1 else own.copy()
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


def best_levels(solution: DenseSolution, steps: int) -> Array:
    """Levels, chosen among those of a converged run, that DDIM's steps along it are wrong by least on, in all.

    The error of a step from level i to j is the root-mean-square distance of DDIM's state, from the run's own at i, to
    the run's own at j. Dynamic programming finds the path of ``steps`` steps with the least sum. No network is called.

    Args:
        solution: A converged run.
        steps: Steps N; fewer than it has.

    Returns:
        Shape ``(N + 1,)``, from its first level to its last.

    Raises:
        InputError: it has too few levels.
    """
    n = len(solution.sigmas)
    if not 1 <= steps < n:
        raise InputError(f"{steps} steps cannot be chosen among {n} levels")
    states = torch.stack([double(x).flatten() for x in solution.states])
    cost = np.full((n, n), np.inf)
    for i in range(min(n - 1, len(solution.outputs))):
        alpha, sigma = float(solution.alphas[i]), float(solution.sigmas[i])
        output = double(solution.outputs[i]).flatten()
        noise = (states[i] - alpha * output) / sigma
        later = torch.from_numpy(np.stack([solution.alphas[i + 1 :], solution.sigmas[i + 1 :]])).to(states)
        wrong = torch.outer(later[0], output) + torch.outer(later[1], noise) - states[i + 1 :]
        cost[i, i + 1 :] = wrong.square().mean(1).sqrt().cpu().numpy()
    best, came = np.full(n, np.inf), []
    best[0] = 0.0
    for _ in range(steps):
        total = best[:, None] + cost
        came.append(total.argmin(0))
        best = total.min(0)
    path = [n - 1]
    for arrived in reversed(came):
        path.append(int(arrived[path[-1]]))
    return solution.sigmas[path[::-1]].copy()
