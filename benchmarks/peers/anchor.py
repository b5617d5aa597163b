"""What peers start from that learn by backprop: a classical solver, as a recurrence that moves with its levels.

Every solver that is exact on a single data point is, written from the state before,

.. math:: x_k = c_k x_{k-1} + \\sum_{j<k} w_{kj} D_j, \\qquad c_k = \\sigma_k / \\sigma_{k-1}, \\qquad
          w_k = b_k - c_k b_{k-1}

with ``b`` of its normal form. The weights ``w`` are functions of the levels; their derivatives by ``log sigma`` are
central difference quotients of the package's own builders, so that any solver, in any frame, can be the anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peer_task import OutOfBudget, Task
from benchmarks.peers.common import plain, rmse, rolled
from longstride.errors import InputError
from longstride.grid import grid
from longstride.schedule import Schedule
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["Anchor", "Levels", "Solvers", "batches", "grids", "normal_form", "strongest"]

Array = NDArray[np.float64]
#: Names of solvers, and their options.
Solvers = Sequence[tuple[str, Mapping[str, Any]]]
GRIDS = ("uniform", "quadratic", "karras", "log_snr")
#: Step of the central difference in ``log sigma``.
STEP = 1e-4


def grids(task: Task) -> dict[str, Array]:
    """The usual grids with ``nfe`` steps, between the task's first and last level."""
    found: dict[str, Array] = {}
    for name in GRIDS:
        try:
            levels = grid(name, task.nfe, schedule=task.schedule, final="sigma_min")
        except InputError:
            continue
        levels[0], levels[-1] = task.sigma_max, task.sigma_min
        if np.all(np.diff(levels) < 0):
            found[name] = levels
    return found or {"base": np.array(task.base.sigmas)}


@dataclass(frozen=True)
class Anchor:
    """A classical solver of one call per step, on levels of its own.

    Attributes:
        solver: Its name.
        options: Its options.
        sigmas: Levels, shape ``(K + 1,)``.
        schedule: The model's.
        grid: Name of the grid.
        error: RMSE on the samples that chose it.
    """

    solver: str
    options: Mapping[str, Any]
    sigmas: Array
    schedule: Schedule
    grid: str = ""
    error: float = float("inf")

    def table(self, sigmas: Array | None = None) -> SolverTable:
        """The solver on other levels, or on its own."""
        levels = self.sigmas if sigmas is None else sigmas
        return build(self.solver, levels, schedule=self.schedule, **self.options)

    def weights(self, log_sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """``c``, shape ``(K + 1,)`` with ``c[0] = 1``, and ``w``, shape ``(K + 1, K)``; differentiable, on the CPU."""
        c = torch.cat([torch.ones(1, dtype=torch.float64), (log_sigmas[1:] - log_sigmas[:-1]).exp()])
        found: Tensor = _Weights.apply(log_sigmas, self)  # type: ignore[no-untyped-call]
        return c, found


def _recurrence(anchor: Anchor, log_sigmas: Array) -> Array:
    sigmas = np.exp(log_sigmas)
    b = anchor.table(sigmas).b
    w = b.copy()
    w[1:] -= (sigmas[1:] / sigmas[:-1])[:, None] * b[:-1]
    return w


class _Weights(torch.autograd.Function):
    """The weights ``w`` by the levels between the first and the last."""

    @staticmethod
    def forward(ctx: Any, log_sigmas: Tensor, anchor: Anchor) -> Tensor:
        ctx.levels, ctx.anchor = log_sigmas.detach().numpy().copy(), anchor
        return torch.from_numpy(_recurrence(anchor, ctx.levels))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        grad, found = grads[0].numpy(), np.zeros(len(ctx.levels))
        for k in range(1, len(ctx.levels) - 1):
            moved = ctx.levels.copy()
            moved[k] += STEP
            above = _recurrence(ctx.anchor, moved)
            moved[k] -= 2 * STEP
            found[k] = float((grad * (above - _recurrence(ctx.anchor, moved))).sum() / (2 * STEP))
        return torch.from_numpy(found), None


def normal_form(states: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Unroll ``x_k = sum_j states[k, j] x_j + sum_j outputs[k, j] D_j``; both ``(K + 1, K)``, read below the diagonal.

    Returns:
        ``a``, shape ``(K + 1,)``, and ``b``, shape ``(K + 1, K)``.
    """
    calls = outputs.shape[1]
    rows = [torch.eye(1, calls + 1, dtype=torch.float64)[0]]
    for k in range(1, calls + 1):
        now = torch.cat([torch.zeros(1), outputs[k, :k], torch.zeros(calls - k)])
        rows.append(now + states[k, :k] @ torch.stack(rows))
    form = torch.stack(rows)
    return form[:, 0], form[:, 1:]


class Levels:
    """Levels that cannot cross, and the levels that the network is told instead of them.

    The steps in ``log sigma`` are shares, the softmax of ``theta``, of the whole way; the told levels are
    ``log sigma_k + xi_k`` at the inner states, cut to the way's two ends.
    """

    def __init__(self, sigmas: Array) -> None:
        logs = torch.from_numpy(np.log(sigmas))
        self.first, self.last = logs[0], logs[-1]
        self.theta = ((logs[:-1] - logs[1:]) / (logs[0] - logs[-1])).log().requires_grad_(True)
        self.xi = torch.zeros(len(sigmas) - 2, dtype=torch.float64, requires_grad=True)

    def logs(self) -> Tensor:
        """``log sigma_k``, shape ``(K + 1,)``."""
        way = self.theta.softmax(0).cumsum(0)[:-1]
        inner = self.first + way * (self.last - self.first)
        return torch.cat([self.first[None], inner, self.last[None]])

    def told(self, logs: Tensor) -> Tensor:
        """What the network is told, shape ``(K + 1,)``."""
        inner = torch.minimum(torch.maximum(logs[1:-1] + self.xi, self.last), self.first)
        return torch.cat([logs[:1], inner, logs[-1:]])


@dataclass
class _Best:
    anchor: Anchor
    tried: dict[str, float] = field(default_factory=dict)


def strongest(task: Task, part: slice, solvers: Solvers, most: int | None = None) -> tuple[Anchor, dict[str, float]]:
    """The best of some solvers on the usual grids, by RMSE on the calibration samples in ``part``.

    Args:
        task: The task.
        part: Which samples decide.
        solvers: Names and options.
        most: Network calls that may be spent; default: no limit but the meter's.

    Returns:
        The solver, and the error of all that were tried; DDIM on the task's own levels if the budget allowed none.
    """
    base = Anchor("ddim", {}, np.array(task.base.sigmas), task.schedule, "base")
    best = _Best(base)
    noise, target = plain(task.noise[part]), task.target[part]
    before = task.meter.calls
    for name, sigmas in grids(task).items():
        for solver, options in solvers:
            if most is not None and task.meter.calls - before + len(noise) * task.nfe > most:
                return best.anchor, best.tried
            try:
                table = Anchor(solver, options, sigmas, task.schedule).table()
                if table.nfe != task.nfe:
                    continue
                error = rmse(rolled(task, noise, table, part), target)
            except InputError:
                continue
            except OutOfBudget:
                return best.anchor, best.tried
            best.tried[f"{solver}, {name}"] = error
            if error < best.anchor.error:
                best.anchor = Anchor(solver, options, sigmas, task.schedule, name, error)
    return best.anchor, best.tried


def batches(part: slice, size: int, seed: int) -> Callable[[], slice]:
    """A function that gives the next batch of ``part``: runs of ``size`` samples, epochs shifted and shuffled."""
    rng = np.random.default_rng(seed)
    queue: list[int] = []
    first, last = part.start, part.stop
    size = min(size, last - first)

    def following() -> slice:
        if not queue:
            begin = first + int(rng.integers(0, (last - first) % size + 1))
            starts = np.arange(begin, last - size + 1, size)
            queue.extend(int(s) for s in rng.permutation(starts))
        start = queue.pop()
        return slice(start, start + size)

    return following
