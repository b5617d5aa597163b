r"""AYS-like: levels that minimise a bound on the Kullback–Leibler divergence, measured on the network.

Between two levels :math:`t_{i+1} < t_i` a first-order sampler freezes the clean prediction at its value at the start.
By Girsanov's theorem the law of the stochastic sampler then differs from the true one by at most

.. math:: \sum_i \int_{t_{i+1}}^{t_i} \frac{1}{t^3}\, \mathbb{E}\,
          \lVert D(x_t, t) - D(x_{t_i}, t_i) \rVert^2 \, dt

(alpha = 1; the authors' KLUB), with the expectation over data :math:`x_0`, :math:`x_t = x_0 + t\epsilon` and
:math:`x_{t_i} = x_t + \sqrt{t_i^2 - t^2}\,\epsilon'`. The levels go down this bound by a search without gradients:
each interior level in turn moves to the best of 11 places around it, sweep after sweep. The search is stopped early,
by the quality of samples: far down, the bound of a *stochastic* sampler wants levels even in log t all the way below
the scale of the data, which is not what a deterministic sampler with few steps needs. DPM-Solver++(2M) runs on the
levels.

Reference: Sabour, Fidler, Kreis, Align your steps: Optimizing sampling schedules in diffusion models, ICML 2024.
https://arxiv.org/abs/2404.14507

Simplified, hence AYS-*like*:

- The expectations are estimated once, on a grid of levels even in log sigma, along Brownian paths
  ``x_t = x_0 + W(t²)``, in which every pair of levels has the joint law above; the bound of any levels on the grid is
  then a sum of numbers from one table of pairs. The paper draws fresh samples at every evaluation, and importance
  samples the time.
- The search starts from the usual grid on which DPM-Solver++(2M) is best on the calibration samples, at the task's
  own number of steps; the paper optimises 10 steps, halves them to 20 and 40, and interpolates other numbers in
  log sigma, which saves network calls that the table makes free, and is worse at 5 (measured).
- Quality is the RMSE to the converged calibration samples, where the authors look at samples and FID: the best sweep
  is returned, and the search ends after three that are worse.
- Data are the converged samples of the calibration noise; no real pictures are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peer_task import Found, OutOfBudget, Task
from benchmarks.peers.anchor import strongest
from benchmarks.peers.common import grid_of, ratio_range, rmse, rolled
from longstride.families import alpha_of_ratio
from longstride.solvers import build

LABEL = "AYS-like"
BACKPROP = False

SOLVER = "dpmpp_2m"
#: Levels of the grid on which the bound is known.
LEVELS = 129
#: Places to either side of a level that a sweep tries.
REACH = 5
SWEEPS = 30
PATIENCE = 3
#: Shares of a budget that the choice of the start and the bound may spend.
CHOICE, MEASURING = 0.2, 0.6

Array = NDArray[np.float64]
Places = NDArray[np.int64]


def find(task: Task) -> Found:
    """Levels of lower KLUB, then DPM-Solver++(2M)."""
    budget = None if task.meter.budget is None else task.meter.budget - task.meter.calls
    every = slice(0, len(task.noise))
    anchor, tried = strongest(task, every, [(SOLVER, {})], None if budget is None else int(CHOICE * budget))
    best, least = anchor.table(), anchor.error
    ratios = np.geomspace(*ratio_range(task), LEVELS)
    pairs, used = distances(task, ratios, None if budget is None else int(MEASURING * budget))
    about: dict[str, Any] = {"solver": SOLVER, "grid": anchor.grid, "draws": used, "tried": tried, "sweeps": 0}
    if not used:
        return Found(best, about)
    cost = segment_costs(pairs, ratios)
    places = snapped(task, anchor.sigmas, ratios)
    about |= {"bound_at_start": bound(cost, places), "bound": bound(cost, places)}
    try:
        for sweep in range(1, SWEEPS + 1):
            moved = swept(cost, places)
            if np.array_equal(moved, places):
                break
            places = moved
            table = build(SOLVER, grid_of(task, ratios[places]), schedule=task.schedule)
            error = rmse(rolled(task, task.noise, table, every), task.target)
            if error < least:
                best, least = table, error
                about |= {"sweeps": sweep, "bound": bound(cost, places)}
            elif sweep - about["sweeps"] >= PATIENCE:
                break
    except OutOfBudget:
        pass
    return Found(best, about)


def distances(task: Task, ratios: Array, most: int | None) -> tuple[Array, int]:
    """``E || D_m - D_n ||²`` of all pairs of levels along Brownian paths, one path per sample, and their number.

    As many calibration samples take part as ``most`` network calls allow.
    """
    count = len(task.target) if most is None else min(len(task.target), most // len(ratios))
    total = np.zeros((len(ratios), len(ratios)))
    if count == 0:
        return total, 0
    rng = torch.Generator().manual_seed(task.seed)
    levels = grid_of(task, ratios)
    alphas = alpha_of_ratio("ve" if task.schedule.scaled else task.schedule.family, ratios)
    clean = task.target[:count]
    walk, reached, outputs = torch.zeros_like(clean), 0.0, []
    for k in reversed(range(len(ratios))):
        fresh = torch.randn(clean.shape, generator=rng, dtype=torch.float32).to(clean)
        walk, reached = walk + float(np.sqrt(ratios[k] ** 2 - reached**2)) * fresh, float(ratios[k])
        outputs.append(task.call(float(alphas[k]) * (clean + walk), float(levels[k]), slice(0, count)).flatten(1))
    for path in torch.stack(outputs[::-1], 1):
        total += squared_distances(path) / count
    return total, count


def squared_distances(points: Tensor) -> Array:
    """Of all pairs of rows."""
    rows = points.double()
    gram = rows @ rows.T
    squares = gram.diagonal()
    found: Array = (squares[:, None] + squares[None] - 2 * gram).clamp_min(0.0).cpu().numpy()
    return found


def segment_costs(pairs: Array, ratios: Array) -> Array:
    """KLUB's part of a step from level i to level j > i, by the trapezoidal rule in ``log t``; infinite elsewhere."""
    width = float(np.log(ratios[0] / ratios[-1])) / (len(ratios) - 1)
    cost = np.full(pairs.shape, np.inf)
    for i in range(len(ratios) - 1):
        values = pairs[i, i:] / ratios[i:] ** 2  # dt / t^3 = d(log t) / t^2
        cost[i, i + 1 :] = np.cumsum((values[1:] + values[:-1]) / 2) * width
    return cost


def bound(cost: Array, places: Places) -> float:
    """KLUB of the levels at ``places``."""
    return float(cost[places[:-1], places[1:]].sum())


def snapped(task: Task, sigmas: Array, ratios: Array) -> Places:
    """Places of the levels on the grid, all different."""
    wanted = np.clip(task.schedule.frame_ratio(sigmas), ratios[-1], ratios[0])
    places: Places = np.abs(np.log(ratios)[None] - np.log(wanted)[:, None]).argmin(1)
    places[0], places[-1] = 0, len(ratios) - 1
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + 1)
    places[-1] = len(ratios) - 1
    for k in range(len(places) - 1, 0, -1):
        places[k - 1] = min(places[k - 1], places[k] - 1)
    return places


def swept(cost: Array, places: Places) -> Places:
    """Every interior level in turn goes to the best place near it and between its neighbours."""
    places = places.copy()
    for k in range(1, len(places) - 1):
        low, high = places[k - 1], places[k + 1]
        near = np.arange(max(low + 1, places[k] - REACH), min(high, places[k] + REACH + 1))
        places[k] = near[(cost[low, near] + cost[near, high]).argmin()]
    return places
