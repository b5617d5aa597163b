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

import torch
from torch import Tensor

from benchmarks.peer_task import Found, Task
from benchmarks.peers.anchor import Anchor, normal_form
from benchmarks.peers.students import BATCH, DescentStudent, descend, falling

LABEL = "S4S-Alt"
BACKPROP = True
#: Iterations of Adam at most, both blocks together; a smaller budget shortens the schedule.
ITERATIONS = 10_000
#: Turns of both blocks together, levels first.
TURNS = 8
LEARNING_RATE_LEVELS = 1e-2
LEARNING_RATE_COEFFICIENTS = 1e-2
#: Most distance of the moved noise at first, as a share of the noise's length, and its steps as a share of that.
RADIUS = 0.005
PACE = 0.2


def find(task: Task) -> Found:
    """Learn the table; see the module."""
    found = descend(task, Student, ITERATIONS)
    about = {"start": found.anchor.solver, "grid": found.anchor.grid, "iterations": found.iterations}
    about |= {"held_out_rmse": found.error, "learning_rates": [LEARNING_RATE_LEVELS, LEARNING_RATE_COEFFICIENTS]}
    return Found(found.table, {**about, "radius": RADIUS, "batch": BATCH, "tried": found.tried})


class Student(DescentStudent):
    """The learnt quantities, in two blocks that take turns, and the moved noise."""

    name = "s4s_alt"

    def __init__(self, task: Task, anchor: Anchor) -> None:
        super().__init__(task, anchor)
        with torch.no_grad():
            logs = self.levels.logs()
            _, w = anchor.weights(logs)
            share = self._share(logs)
            self.reads = (w.abs() > 1e-12 * w.abs().sum(1, keepdim=True)).double()
            start = torch.zeros_like(w)
            start[1:] = w[1:] / share[1:, None]
        self.weights = start.requires_grad_(True)
        self.moved = MovedNoise(self.noise)
        self.blocks = (
            ([self.levels.theta, self.levels.xi], LEARNING_RATE_LEVELS),
            ([self.weights], LEARNING_RATE_COEFFICIENTS),
        )
        self.adams = [torch.optim.Adam(parameters, lr=rate) for parameters, rate in self.blocks]

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

    def step(self, part: slice, done: int, total: int) -> None:
        """One step of the block whose turn it is, and of the moved noise."""
        turn = (done - 1) * TURNS // total % 2
        parameters, rate = self.blocks[turn]
        adam, share = self.adams[turn], falling(done, total)
        adam.param_groups[0]["lr"] = rate * share
        for others, _ in self.blocks:
            for parameter in others:
                parameter.requires_grad_(others is parameters)
        x = self.moved.take(part, share)
        adam.zero_grad()
        self.loss(x, part).backward()  # type: ignore[no-untyped-call]
        adam.step()
        self.moved.descend(part, x.grad, share)


class MovedNoise:
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
    found: Tensor = x.flatten(1).norm(dim=1)
    return found.reshape(-1, *(1,) * (x.ndim - 1))
