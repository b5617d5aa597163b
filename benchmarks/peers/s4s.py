r"""S4S-Alt: coefficients of a linear multistep solver and its levels, learnt in turn with a relaxed objective.

.. math:: x_k = c_k\, x_{k-1} + (\alpha_k - \alpha_{k-1} c_k) \sum_{j} \bar w_{kj} D_j, \qquad
          c_k = \sigma_k / \sigma_{k-1}

The sum goes over the latest outputs, as many as the classical solver reads from which the coefficients start. Two
blocks take turns, each by Adam and backprop through all calls while the other rests: the levels (a cumulative softmax,
and other levels that the network is told), and the coefficients. Each minimises

.. math:: \min_{x'} \; \|\Psi(x') - \Psi^*(x_0)\|^2 \quad\text{with}\quad \|x' - x_0\| \le r\, \|x_0\|

over the samples of a teacher :math:`\Psi^*`: a student of few parameters need not map this very noise to this very
picture, but one close by. The moved noises are kept per sample and descend along with the parameters.

Reference: Frankel, Chen, Li, Koh, Ratliff, Oh, S4S: Solving for a Diffusion Model Solver, ICML 2025.
https://arxiv.org/abs/2502.17423

Simplified or adapted:

* The distance is the mean squared difference in pixels: weights of LPIPS, which the paper uses, are not at hand, and
  RMSE is what this benchmark reports.
* The solver and the grid to start from are the best of four solvers on four grids, on held-out calibration samples.
* Softmax and told levels act on ``log sigma``, which every schedule has, and not on the network's time. The first told
  level is the first level itself, since all samplers here share it.
* The radius is a share of the noise's own length, and the moved noise takes a step of fixed length against its
  gradient; the radius, the number of turns and the learning rates were chosen here.
* The radius shrinks to 0 along with the learning rate, since RMSE is measured from the noise itself. RMSE on held-out
  calibration samples (32 × 32 galaxies, 5 calls, 79 iterations, one run each, learning rates 0.01): 0.0462 without
  relaxation, 0.0460 and 0.0501 with constant radii 0.002 and 0.02, 0.0454 with 0.005 shrinking; the
  latter is 0.0454 as well with learning rates 0.02 (levels) and 0.03 (coefficients).
* A cosine schedule over all turns ends the learning rate at 0; among the checkpoints the one with the least error on
  held-out calibration samples, from noise that is not moved, is kept.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from longstride.bench.peer_task import Found, OutOfBudget, Task
from longstride.table import SolverTable
from peers._anchor import Anchor, Levels, batches, normal_form, strongest
from peers._common import plain, rmse, rolled, split, table_of, unrolled

LABEL = "S4S-Alt"
BACKPROP = True
#: Iterations of Adam at most, both blocks together; a smaller budget shortens the schedule.
ITERATIONS = 10_000
#: Turns of both blocks together, levels first.
TURNS = 8
BATCH = 16
SOLVERS = (("ddim", {}), ("dpmpp_2m", {}), ("dpmpp_3m", {}), ("unipc", {"order": 3}))
LEARNING_RATE_LEVELS = 1e-2
LEARNING_RATE_COEFFICIENTS = 1e-2
#: Most distance of the moved noise at first, as a share of the noise's length, and its steps as a share of that.
RADIUS = 0.005
PACE = 0.2
#: Validations at most.
CHECKS = 25


class _Solver:
    """The learnt quantities."""

    def __init__(self, task: Task, anchor: Anchor) -> None:
        self.task, self.levels = task, Levels(anchor.sigmas)
        with torch.no_grad():
            logs = self.levels.logs()
            _, w = anchor.weights(logs)
            share = self._share(logs)
            self.reads = (w.abs() > 1e-12 * w.abs().sum(1, keepdim=True)).double()
            start = torch.zeros_like(w)
            start[1:] = w[1:] / share[1:, None]
        self.weights = start.requires_grad_(True)

    def _share(self, logs: Tensor) -> Tensor:
        """``alpha_k - alpha_(k-1) c_k``, the first entry without meaning; alphas are not differentiated."""
        sigmas = logs.exp()
        alphas = torch.from_numpy(self.task.schedule.frame_alpha(sigmas.detach().numpy()))
        return torch.cat([torch.ones(1), alphas[1:] - alphas[:-1] * sigmas[1:] / sigmas[:-1]])

    def form(self) -> tuple[Tensor, Tensor, Tensor]:
        """``a``, ``b`` and the told ``log sigma``."""
        logs = self.levels.logs()
        states = torch.diag_embed((logs[1:] - logs[:-1]).exp(), offset=-1)[:, :-1]
        outputs = self._share(logs)[:, None] * self.weights * self.reads
        return *normal_form(states, outputs), self.levels.told(logs)

    def table(self) -> SolverTable:
        """As numbers."""
        with torch.no_grad():
            a, b, logs = (v.numpy() for v in self.form())
        sigmas = np.exp(logs)
        sigmas[0], sigmas[-1] = self.task.sigma_max, self.task.sigma_min
        return table_of("s4s_alt", a, b, sigmas, self.task.schedule.frame_alpha(sigmas))


class _MovedNoise:
    """First states that may move within small balls around the noise."""

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.moved = noise, torch.zeros_like(noise)
        self.radius = RADIUS * _lengths(noise)

    def take(self, part: slice, share: float) -> Tensor:
        """Those of some samples, within what is left of the ball, to be differentiated."""
        radius = self.radius[part] * share
        self.moved[part] *= (radius / _lengths(self.moved[part]).clamp_min(1e-30)).clamp_max(1.0)
        return (self.noise[part] + self.moved[part]).requires_grad_(RADIUS > 0)

    def descend(self, part: slice, grad: Tensor | None, share: float) -> None:
        """One step against the gradient, and back into the ball, of which a share of the radius is left."""
        if grad is None:
            return
        radius = self.radius[part] * share
        moved = self.moved[part] - PACE * radius * grad / _lengths(grad).clamp_min(1e-30)
        self.moved[part] = moved * (radius / _lengths(moved).clamp_min(1e-30)).clamp_max(1.0)


def _lengths(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x.ndim - 1))


def find(task: Task) -> Found:
    """Learn the table; see the module."""
    fit, held = split(task)
    budget = task.meter.budget
    anchor, tried = strongest(task, held, SOLVERS, None if budget is None else (budget - task.meter.calls) // 10)
    solver, best, least, done = _Solver(task, anchor), anchor.table(), anchor.error, 0
    noise, target = plain(task.noise), plain(task.target)
    moved = _MovedNoise(noise)
    following = batches(fit, BATCH, task.seed)
    cost, check = 2 * task.nfe * min(BATCH, fit.stop - fit.start), task.nfe * (held.stop - held.start)
    iterations = ITERATIONS
    if budget is not None:
        iterations = min(iterations, max(1, (budget - task.meter.calls - CHECKS * check) // cost))
    every = max(1, iterations // (CHECKS - 1))
    blocks = (
        ([solver.levels.theta, solver.levels.xi], LEARNING_RATE_LEVELS),
        ([solver.weights], LEARNING_RATE_COEFFICIENTS),
    )
    adams = [torch.optim.Adam(parameters, lr=rate) for parameters, rate in blocks]
    try:
        for done in range(1, iterations + 1):
            turn = (done - 1) * TURNS // iterations % 2
            parameters, rate = blocks[turn]
            adam = adams[turn]
            share = 0.5 * (1 + math.cos(math.pi * (done - 1) / iterations))
            adam.param_groups[0]["lr"] = rate * share
            for others, _ in blocks:
                for parameter in others:
                    parameter.requires_grad_(others is parameters)
            part = following()
            x = moved.take(part, share)
            a, b, logs = solver.form()
            loss = (unrolled(task, x, a, b, logs, part) - target[part]).square().mean()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            moved.descend(part, x.grad, share)
            if done % every == 0 or done == iterations:
                table = solver.table()
                error = rmse(rolled(task, noise[held], table, held), target[held])
                if error < least:
                    best, least = table, error
    except OutOfBudget:
        pass
    about = {"start": anchor.solver, "grid": anchor.spacing, "iterations": done, "held_out_rmse": least}
    rates = {"learning_rates": [LEARNING_RATE_LEVELS, LEARNING_RATE_COEFFICIENTS], "radius": RADIUS}
    return Found(best, {**about, **rates, "batch": BATCH, "tried": tried})
