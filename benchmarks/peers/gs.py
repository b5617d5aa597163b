r"""GS, the generalized solver: every coefficient and every level of a table, learnt by backprop through all calls.

.. math:: x_k = \sum_{j<k} (A_{kj} + s_k s_j^{-1} \phi^A_{kj})\, x_j + \sum_{j<k} (B_{kj} + \phi^B_{kj})\, D_j

``A`` and ``B`` are the coefficients of a classical solver *at the learnt levels*, so that a level moves them too;
:math:`\phi` are additive corrections that start at 0 and reach back to all earlier states and outputs. The levels are
cumulative sums of a softmax, and the network is told other levels, :math:`\log\sigma_k + \xi_k`. Adam on
:math:`\theta, \phi, \xi` together, on the distance of the last state to a teacher's; an exponential moving average of
the parameters is what is kept.

Reference: Oganov, Bykov, Neudachina, Aliev, Tolmachev, Sidorov, Zuev, Okhotin, Rakitin, Alanov, GAS: Improving
Discretization of Diffusion ODEs via Generalized Adversarial Solver, 2025. https://arxiv.org/abs/2510.17699
Adam, the EMA and 1400 teacher samples were read off the training options of the authors' repository.

Simplified or adapted:

* The distance is the mean squared difference in pixels: weights of LPIPS, which the paper uses, are not at hand, and
  RMSE is what this benchmark reports. The adversarial term (GAS) is left out: it needs a discriminator and real data.
* The anchor is the best of four classical solvers on four grids, on held-out calibration samples.
* Softmax and offsets act on ``log sigma``, which every schedule has, and not on the network's time.
* Corrections of states are in units of the states' sizes, :math:`s_k^2 = \sigma_k^2 + \alpha_k^2/4`, so that one
  learning rate fits states of size 80 and of size 0.5.
* The first told level is the first level itself, since all samplers here share it.
* A cosine schedule ends the learning rate at 0; among the checkpoints the one with the least error on held-out
  calibration samples is kept.
* Learning rate, by RMSE on held-out calibration samples (32 × 32 galaxies, 5 calls, 129 iterations, one run each):
  0.0479 with 0.001, 0.0444 with 0.005, 0.0452 with 0.02.
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

LABEL = "GS"
BACKPROP = True
#: Iterations of Adam at most, about as published; a smaller budget shortens the schedule.
PUBLISHED_ITERATIONS = 10_000
BATCH = 16
SOLVERS = (("ddim", {}), ("dpmpp_2m", {}), ("dpmpp_3m", {}), ("unipc", {"order": 3}))
LEARNING_RATE = 5e-3
EMA = 0.99
#: Validations at most.
CHECKS = 25


class _Solver:
    """The learnt quantities."""

    def __init__(self, task: Task, anchor: Anchor) -> None:
        self.task, self.anchor, self.levels = task, anchor, Levels(anchor.sigmas)
        shape = (task.nfe + 1, task.nfe)
        self.by_state = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.by_output = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.parameters = [self.levels.theta, self.levels.xi, self.by_state, self.by_output]

    def form(self) -> tuple[Tensor, Tensor, Tensor]:
        """``a``, ``b`` and the told ``log sigma``."""
        logs = self.levels.logs()
        c, w = self.anchor.weights(logs)
        sigmas = logs.detach().exp()
        sizes = (sigmas**2 + torch.from_numpy(self.task.schedule.frame_alpha(sigmas.numpy())) ** 2 / 4).sqrt()
        states = self.by_state * sizes[:, None] / sizes[None, :-1]
        states = states + torch.diag_embed(c[1:], offset=-1)[:, :-1]
        return *normal_form(states, w + self.by_output), self.levels.told(logs)

    def table(self) -> SolverTable:
        """As numbers."""
        with torch.no_grad():
            a, b, logs = (v.numpy() for v in self.form())
        sigmas = np.exp(logs)
        sigmas[0], sigmas[-1] = self.task.sigma_max, self.task.sigma_min
        return table_of("gs", a, b, sigmas, self.task.schedule.frame_alpha(sigmas))


def find(task: Task) -> Found:
    """Learn the table; see the module."""
    fit, held = split(task)
    budget = task.meter.budget
    anchor, tried = strongest(task, held, SOLVERS, None if budget is None else (budget - task.meter.calls) // 10)
    solver, best, least, done = _Solver(task, anchor), anchor.table(), anchor.error, 0
    noise, target = plain(task.noise), plain(task.target)
    following = batches(fit, BATCH, task.seed)
    cost, check = 2 * task.nfe * min(BATCH, fit.stop - fit.start), task.nfe * (held.stop - held.start)
    iterations = PUBLISHED_ITERATIONS
    if budget is not None:
        iterations = min(iterations, max(1, (budget - task.meter.calls - CHECKS * check) // cost))
    every = max(1, iterations // (CHECKS - 1))
    adam = torch.optim.Adam(solver.parameters, lr=LEARNING_RATE)
    mean = [p.detach().clone() for p in solver.parameters]
    try:
        for done in range(1, iterations + 1):
            for group in adam.param_groups:
                group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (done - 1) / iterations))
            part = following()
            a, b, logs = solver.form()
            loss = (unrolled(task, noise[part], a, b, logs, part) - target[part]).square().mean()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            decay = min(EMA, done / (done + 9))
            for kept, parameter in zip(mean, solver.parameters, strict=True):
                kept.lerp_(parameter.detach(), 1 - decay)
            if done % every == 0 or done == iterations:
                table = _with(solver, mean)
                error = rmse(rolled(task, noise[held], table, held), target[held])
                if error < least:
                    best, least = table, error
    except OutOfBudget:
        pass
    about = {"anchor": anchor.solver, "grid": anchor.spacing, "iterations": done, "held_out_rmse": least}
    return Found(best, {**about, "learning_rate": LEARNING_RATE, "batch": BATCH, "tried": tried})


def _with(solver: _Solver, values: list[Tensor]) -> SolverTable:
    """The table at other values of the parameters."""
    with torch.no_grad():
        own = [p.clone() for p in solver.parameters]
        for parameter, value in zip(solver.parameters, values, strict=True):
            parameter.copy_(value)
        table = solver.table()
        for parameter, value in zip(solver.parameters, own, strict=True):
            parameter.copy_(value)
    return table
