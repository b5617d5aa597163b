"""What the peers share: tables from arrays, roll-outs that can be differentiated, and a validation split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from benchmarks.peer_task import Task, differentiable
from longstride.families import alpha_of_ratio
from longstride.sampler import sample
from longstride.table import Row, SolverTable

__all__ = ["grid_of", "plain", "ratio_range", "rmse", "rolled", "split", "table_of", "unrolled"]

#: What stands for the ratio ``sigma / alpha`` of a first level at alpha = 0, as in :mod:`longstride.grid`.
LARGEST_RATIO = 1e3


def table_of(name: str, a: ArrayLike, b: ArrayLike, sigmas: ArrayLike, alphas: ArrayLike | None = None) -> SolverTable:
    """A table from its normal form ``x_k = a_k x_0 + sum_j b_kj D_j``.

    Args:
        name: Of the sampler.
        a: Shape ``(K + 1,)``; ``a[0]`` is 1.
        b: Shape ``(K + 1, K)``, strictly lower triangular; what stands elsewhere is not read.
        sigmas: Levels that the network is told, and the last level, shape ``(K + 1,)``.
        alphas: Their alphas; default: 1, as in every scaled frame.
    """
    weights, outputs, levels = (np.asarray(v, np.float64) for v in (a, b, sigmas))
    steps = len(levels) - 1
    rows = tuple(Row({0: float(weights[k])}, {j: float(outputs[k, j]) for j in range(k)}) for k in range(1, steps + 1))
    scales = np.ones(steps + 1) if alphas is None else np.asarray(alphas, np.float64)
    return SolverTable(name, scales, levels, rows, tuple(range(steps + 1)), exact=False)


def unrolled(task: Task, x: Tensor, a: Tensor, b: Tensor, log_sigmas: Tensor, part: slice) -> Tensor:
    """Last state of a table's roll-out, with gradients by ``x``, the weights and the levels; calls are counted.

    Args:
        task: The task.
        x: First states ``(b, *)`` of the calibration samples in ``part``.
        a: float64 ``(K + 1,)``.
        b: float64 ``(K + 1, K)``, of which the strictly lower triangle is read.
        log_sigmas: float64 ``(K + 1,)``: logarithms of the levels that the network is told (the last one is not read).
        part: Which samples.
    """
    outputs: list[Tensor] = []
    state = x
    for k in range(1, len(a)):
        outputs.append(differentiable(task, state, log_sigmas[k - 1], part))
        state = a[k].to(x.dtype) * x
        for j, output in enumerate(outputs):
            state = state + b[k, j].to(x.dtype) * output
    return state


def rolled(task: Task, x: Tensor, table: SolverTable, part: slice) -> Tensor:
    """Samples of a table from ``x`` without gradients, for the calibration samples in ``part``; calls are counted."""
    return sample(lambda state, sigma: task.call(state, sigma, part), x, table)


def plain(x: Tensor) -> Tensor:
    """A copy that autograd may save, of a tensor that may have been made in inference mode."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)


def split(task: Task, held: float = 0.25) -> tuple[slice, slice]:
    """Calibration samples to fit, and the last ``held`` of them to decide; at least one each if there are two."""
    count = len(task.noise)
    kept = min(count - 1, max(1, round(held * count))) if count > 1 else 0
    return (slice(0, count - kept), slice(count - kept, count)) if kept else (slice(0, count), slice(0, count))


def rmse(x: Tensor, y: Tensor) -> float:
    """Root-mean-square difference."""
    return float((x - y).detach().double().square().mean().sqrt())


def ratio_range(task: Task) -> tuple[float, float]:
    """``sigma / alpha`` of the first and of the last level, both positive and finite."""
    high, low = (float(task.schedule.frame_ratio(level)) for level in (task.sigma_max, task.sigma_min))
    return min(high, LARGEST_RATIO), low


def grid_of(task: Task, ratios: ArrayLike) -> np.ndarray:
    """Levels in the task's frame at ``sigma / alpha = ratios``, falling; the first and the last are the task's own."""
    values = np.asarray(ratios, np.float64)
    levels = values if task.schedule.scaled else values * alpha_of_ratio(task.schedule.family, values)
    levels = levels.copy()
    levels[0], levels[-1] = task.sigma_max, task.sigma_min
    return levels
