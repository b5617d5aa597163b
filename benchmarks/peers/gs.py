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

import torch
from torch import Tensor

from benchmarks.peer_task import Found, Task
from benchmarks.peers.anchor import Anchor, normal_form
from benchmarks.peers.students import BATCH, DescentStudent, descend, falling
from longstride.table import SolverTable

LABEL = "GS"
BACKPROP = True
#: Iterations of Adam at most, about as published; a smaller budget shortens the schedule.
PUBLISHED_ITERATIONS = 10_000
LEARNING_RATE = 5e-3
EMA = 0.99


def find(task: Task) -> Found:
    """Learn the table; see the module."""
    found = descend(task, Student, PUBLISHED_ITERATIONS)
    about = {"anchor": found.anchor.solver, "grid": found.anchor.grid, "iterations": found.iterations}
    about |= {"held_out_rmse": found.error, "learning_rate": LEARNING_RATE, "batch": BATCH, "tried": found.tried}
    return Found(found.table, about)


class Student(DescentStudent):
    """The learnt quantities, and their moving average."""

    name = "gs"

    def __init__(self, task: Task, anchor: Anchor) -> None:
        super().__init__(task, anchor)
        self.anchor = anchor
        shape = (task.nfe + 1, task.nfe)
        self.by_state = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.by_output = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.parameters = [self.levels.theta, self.levels.xi, self.by_state, self.by_output]
        self.adam = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)
        self.mean = [parameter.detach().clone() for parameter in self.parameters]

    def form(self) -> tuple[Tensor, Tensor, Tensor]:
        """``a``, ``b`` and the told ``log sigma``."""
        logs = self.levels.logs()
        c, w = self.anchor.weights(logs)
        sigmas = logs.detach().exp()
        sizes = (sigmas**2 + torch.from_numpy(self.task.schedule.frame_alpha(sigmas.numpy())) ** 2 / 4).sqrt()
        states = self.by_state * sizes[:, None] / sizes[None, :-1]
        states = states + torch.diag_embed(c[1:], offset=-1)[:, :-1]
        return *normal_form(states, w + self.by_output), self.levels.told(logs)

    def step(self, part: slice, done: int, total: int) -> None:
        """One step of Adam and of the average."""
        self.adam.param_groups[0]["lr"] = LEARNING_RATE * falling(done, total)
        self.adam.zero_grad()
        self.loss(self.noise[part], part).backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        decay = min(EMA, done / (done + 9))
        for kept, parameter in zip(self.mean, self.parameters, strict=True):
            kept.lerp_(parameter.detach(), 1 - decay)

    def kept(self) -> SolverTable:
        """The table at the averages of the parameters."""
        with torch.no_grad():
            own = [parameter.clone() for parameter in self.parameters]
            for parameter, value in zip(self.parameters, self.mean, strict=True):
                parameter.copy_(value)
            table = self.table()
            for parameter, value in zip(self.parameters, own, strict=True):
                parameter.copy_(value)
        return table
