r"""LD3: levels, and the levels that the network is told, learnt by backprop through the unrolled sampler.

The student :math:`\Psi_\xi` is a classical solver with few calls; its levels are learnt from pairs of noise and the
teacher's samples. A student with some ten parameters cannot reproduce the teacher from the very same noise, so the
noise may move a little: with a ball of radius :math:`r \sigma_0` around the noise,

.. math:: \min_\xi\, \mathbb{E}_{x_0} \min_{x' \in B(x_0,\, r\sigma_0)}
          d\left(\Psi_\xi(x'),\, \Psi_{teacher}(x_0)\right).

Every training sample keeps its own x'; levels and x' follow the gradient together, and x' is projected back onto its
ball. Two sets of numbers are learnt: the levels :math:`\sigma_k`, monotone as a cumulative softmax over
:math:`\log\sigma`, on which the solver's weights depend; and, decoupled from them, what the network is told at each
call, :math:`\log\sigma_k + \xi_k`. As published the levels train alone first, then both.

Reference: Tong, Hoang, Liu, Van den Broeck, Niepert, Learning to discretize denoising diffusion ODEs, ICLR 2025.
https://arxiv.org/abs/2405.15506

Published settings that are kept (their configuration for CIFAR-10): batches of 2, 2 rounds of levels and 5 of both
over 50 pairs, so 175 iterations, and a radius of 1 in the Euclidean norm of unit noise, which is what r is here for
every picture of 3 × 32 × 32 numbers and in proportion to the square root of their number for others. The best iterate
on validation samples, from their own noise, is returned.

Adapted:

- d is the mean squared error of pixels in place of LPIPS, whose weights are not at hand; the benchmark measures the
  same. The teacher is the converged solution that all peers are given.
- The student is UniPC, iPNDM or DPM-Solver++(2M), and starts from the usual grid, whichever is best on the training
  samples. (The paper shows each of the three.) Its weights follow the levels through difference quotients.
- Adam with a falling step for all parameters, where the authors use one optimiser for each kind.
- The first told level stays the first level, which all samplers share.
- Training and validation pairs are three quarters and one quarter of the calibration samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.peer_task import Found, OutOfBudget, Task
from benchmarks.peers import students
from benchmarks.peers.anchor import Anchor, Solvers, batches, strongest
from benchmarks.peers.common import plain, rmse, rolled, split
from longstride.table import SolverTable

LABEL = "LD3"
BACKPROP = True

PUBLISHED_ITERATIONS = 175
#: Of those, the share in which the levels train alone.
ALONE = 2 / 7
BATCH = 2
#: Iterations between two looks at the validation samples.
LOOK = 15
RATE_LEVELS = 0.02
RATE_TOLD = 0.01
#: Step of the noise, in units of its standard deviation, along a gradient of unit root-mean-square.
RATE_NOISE = 1e-3
RADIUS_OF_3072 = 1.0
#: Share of a budget that the choice of the solver may spend.
CHOICE = 0.25

SOLVERS: Solvers = (("unipc", {"order": 3}), ("ipndm", {}), ("dpmpp_2m", {}))


def find(task: Task) -> Found:
    """Learnt levels on the best of three solvers."""
    train, held = split(task)
    most = None if task.meter.budget is None else int(CHOICE * (task.meter.budget - task.meter.calls))
    anchor, tried = strongest(task, train, SOLVERS, most)
    student = Student(task, anchor)
    best, least, start = anchor.table(), math.inf, math.nan
    done = 0
    try:
        start = least = student.error(best, held)
        following = batches(train, BATCH, task.seed)
        while done < PUBLISHED_ITERATIONS:
            student.learn(following(), done / PUBLISHED_ITERATIONS)
            done += 1
            if done % LOOK == 0 or done == PUBLISHED_ITERATIONS:
                table = student.table()
                error = student.error(table, held)
                if error < least:
                    best, least = table, error
    except OutOfBudget:
        pass
    about = {
        "solver": anchor.solver,
        "grid": anchor.grid,
        "iterations": done,
        "validation_start": start,
        "validation": least,
        "radius": student.radius,
        "tried": tried,
    }
    return Found(best, about)


class Student(students.Student):
    """A solver whose levels learn.

    Attributes:
        moved: The noise x' of every calibration sample.
        radius: Of its ball, in units of the first level.
    """

    name = "ld3"

    def __init__(self, task: Task, anchor: Anchor) -> None:
        super().__init__(task, anchor)
        self.anchor = anchor
        groups = [{"params": [self.levels.theta], "lr": RATE_LEVELS}, {"params": [self.levels.xi], "lr": RATE_TOLD}]
        self.optimiser = torch.optim.Adam(groups)
        self.rates = (RATE_LEVELS, RATE_TOLD)
        self.moved = plain(task.noise)
        self.radius = RADIUS_OF_3072 * math.sqrt(self.noise[0].numel() / 3072)

    def form(self) -> tuple[Tensor, Tensor, Tensor]:
        """``a``, ``b`` and the logarithms of the told levels; differentiable."""
        logs = self.levels.logs()
        c, w = self.anchor.weights(logs)
        rows = [torch.zeros(w.shape[1], dtype=torch.float64)]
        for k in range(1, len(c)):
            rows.append(c[k] * rows[-1] + w[k])
        return c.cumprod(0), torch.stack(rows), self.levels.told(logs)

    def learn(self, part: slice, progress: float) -> None:
        """One step on the samples in ``part``."""
        fall = 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * fall
        self.optimiser.zero_grad()
        x = self.moved[part].clone().requires_grad_(True)
        self.loss(x, part).backward()  # type: ignore[no-untyped-call]
        if progress < ALONE:
            self.levels.xi.grad = None
        if not all(p.grad is None or bool(p.grad.isfinite().all()) for p in (self.levels.theta, self.levels.xi)):
            return
        self.optimiser.step()
        assert x.grad is not None
        self.moved[part] = self.projected(x.detach() - self.noise_step(x.grad) * fall, part)

    def noise_step(self, grad: Tensor) -> Tensor:
        size = grad.square().flatten(1).mean(1).sqrt().clamp_min(1e-30)
        return RATE_NOISE * self.task.sigma_max * grad / size.view(-1, *[1] * (grad.ndim - 1))

    def projected(self, x: Tensor, part: slice) -> Tensor:
        """``x`` pulled back to its ball around the noise of the samples in ``part``."""
        away = x - self.noise[part]
        norm = away.flatten(1).norm(dim=1).clamp_min(1e-30)
        shrink = (self.radius * self.task.sigma_max / norm).clamp_max(1.0)
        found: Tensor = self.noise[part] + away * shrink.view(-1, *[1] * (away.ndim - 1))
        return found

    def error(self, table: SolverTable, part: slice) -> float:
        """RMSE from the samples' own noise."""
        return rmse(rolled(self.task, self.noise[part], table, part), self.target[part])
