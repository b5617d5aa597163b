r"""PAS: the direction of a step, corrected in the few principal directions of the sample's own trajectory.

At step ``k`` every sample has a buffer :math:`Q = (x_0, d_0, \ldots, d_k)`: its first state and the directions so far.
Its basis is ``u_1``, the current direction at length 1, and after it the leading right singular vectors of ``Q``,
made orthonormal by Gram and Schmidt, up to four. In it the direction that is taken is

.. math:: \tilde d_k = \|d_k\| \sum_{m=1}^{4} c_{km} u_m

with coordinates ``c_k`` that all samples share; :math:`c = (1, 0, 0, 0)` is the uncorrected step. The corrected
direction takes the place of the network's, in the step, in the buffer and in a multistep formula's history. Steps are
fitted in the order in which they are taken, each against the teacher's state at its end, without gradients of the
network; a step whose correction gains less than a tolerance stays as it was (the adaptive search).

The basis depends on the sample, so the sampler is not linear in the outputs: it is a function and no table.

Reference: Wang, Peng, Li, Chen, Cai, Su, Diffusion Sampling Correction via Approximately 10 Parameters, ICML 2025.
https://arxiv.org/abs/2411.06503

Simplified or adapted:

* The state after the step is linear in ``c``, so the squared error is minimised exactly, by least squares, in place of
  stochastic gradient descent. The paper finds an absolute error a little better for FID; RMSE is what counts here.
* Coordinates are in units of each sample's own :math:`\|d_k\|`, not of its mean over the samples.
* Base solver (DDIM or iPNDM, the two that the paper corrects), grid and tolerance are chosen: the whole search is run
  for each, and held-out calibration samples decide. The tolerance is relative, and is also applied there.
* A direction is ``dx/du`` of a parameter ``u`` in which DDIM is a straight step: sigma, or for variance-preserving
  processes on their own scale the angle :math:`\arcsin\sigma`, where the step is a rotation and still linear in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peer_task import Found, OutOfBudget, Task
from benchmarks.peers.anchor import grids
from benchmarks.peers.common import rmse, split
from longstride.schedule import Schedule

LABEL = "PAS"
BACKPROP = False
#: Basis vectors at most.
BASIS = 4
#: Least relative gains in error, on held-out samples, for which a step is corrected; each is tried.
TOLERANCES = (0.01, 0.1)
#: Weights of the base solvers on the latest directions, latest first, by number of directions at hand.
SOLVERS: dict[str, tuple[tuple[float, ...], ...]] = {
    "ddim": ((1.0,),),
    "ipndm": ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)),
}

Array = NDArray[np.float64]
Network = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class CorrectedSampler:
    """The base solver with its corrected steps.

    Attributes:
        schedule: The model's.
        solver: Name of the base solver.
        sigmas: Levels, shape ``(K + 1,)``.
        coordinates: By step: up to four numbers; steps that are not there are the base solver's.
    """

    schedule: Schedule
    solver: str
    sigmas: tuple[float, ...]
    coordinates: dict[int, tuple[float, ...]]

    def __call__(self, denoiser: Network, noise: Tensor) -> Tensor:
        """Last states for first states ``noise``, ``(B, *)``."""
        with torch.inference_mode():
            run = Run(self, noise)
            for k in range(len(self.sigmas) - 1):
                run.see(denoiser(run.x.to(noise.dtype), self.sigmas[k]))
                if k in self.coordinates:
                    run.correct(self.coordinates[k])
                run.advance()
            return run.x.to(noise.dtype)


class Run:
    """States of some samples on their way."""

    def __init__(self, sampler: CorrectedSampler, noise: Tensor) -> None:
        self.sampler, self.k = sampler, 0
        self.x = noise.to(torch.promote_types(noise.dtype, torch.float32))
        self.first = self.x
        self.directions: list[Tensor] = []

    def see(self, prediction: Tensor) -> None:
        """Take the network's output at the current state."""
        schedule, sigma = self.sampler.schedule, self.sampler.sigmas[self.k]
        alpha = float(schedule.frame_alpha(sigma))
        eps = (self.x - alpha * prediction) / sigma
        if schedule.scaled:
            direction = eps
        else:
            direction = eps - prediction if schedule.family == "flow" else alpha * eps - sigma * prediction
        self.directions.append(direction)

    def step(self) -> tuple[float, float]:
        """Weights of the state and of the direction in a first-order step."""
        schedule, (start, end) = self.sampler.schedule, self.sampler.sigmas[self.k : self.k + 2]
        if schedule.scaled or schedule.family == "flow":
            return 1.0, end - start
        angle = math.asin(end) - math.asin(start)
        return math.cos(angle), math.sin(angle)

    def known(self) -> tuple[Tensor, float]:
        """The next state without the current direction, and the weight that this one has in it."""
        by_state, by_direction = self.step()
        rules = SOLVERS[self.sampler.solver]
        weights = rules[min(len(rules), len(self.directions)) - 1]
        total = by_state * self.x
        for weight, direction in zip(weights[1:], reversed(self.directions[:-1]), strict=False):
            total = total + by_direction * weight * direction
        return total, by_direction * weights[0]

    def basis(self) -> Tensor:
        """``||d|| u_m`` of every sample, ``(B, 4, *)``; zero if the buffer has no further direction."""
        buffer = torch.stack([self.first, *self.directions], 1).flatten(2).double()
        gram = buffer @ buffer.mT
        values, vectors = torch.linalg.eigh(gram)  # rising
        leading = (vectors.mT @ buffer).flip(1)  # singular vectors times singular values, largest first
        length = buffer[:, -1].norm(dim=1, keepdim=True)
        units = [buffer[:, -1] / length]
        for m in range(min(BASIS, leading.shape[1]) - 1):
            size = values[:, -1 - m].clamp_min(0).sqrt()[:, None]
            rest = leading[:, m] / size.clamp_min(1e-300)
            for _ in range(2):  # once more, for what rounding left
                for unit in units:
                    rest = rest - (rest * unit).sum(1, keepdim=True) * unit
            norm = rest.norm(dim=1, keepdim=True)
            units.append(torch.where(norm > 1e-6, rest / norm.clamp_min(1e-300), torch.zeros_like(rest)))
        units += [torch.zeros_like(units[0])] * (BASIS - len(units))
        found: Tensor = length[:, None] * torch.stack(units, 1)
        return found.to(self.x.dtype).reshape(len(self.x), BASIS, *self.x.shape[1:])

    def correct(self, coordinates: tuple[float, ...]) -> None:
        """Put the corrected direction in the place of the latest one."""
        weights = torch.tensor(coordinates, dtype=self.x.dtype, device=self.x.device)
        self.directions[-1] = torch.einsum("bm...,m->b...", self.basis(), weights)

    def advance(self) -> None:
        """Take the step."""
        total, weight = self.known()
        self.x = total + weight * self.directions[-1]
        self.k += 1


def _search(
    task: Task, solver: str, sigmas: Array, tolerance: float, fit: slice, held: slice
) -> tuple[CorrectedSampler, float]:
    """Fit every step in turn; the sampler and its RMSE on the held-out samples."""
    sampler = CorrectedSampler(task.schedule, solver, tuple(sigmas.tolist()), {})
    run = Run(sampler, task.noise)
    for k in range(task.nfe):
        run.see(task.call(run.x.to(task.noise.dtype), sampler.sigmas[k]))
        target = task.target if k + 1 == task.nfe else task.solution.at(sampler.sigmas[k + 1])
        total, weight = run.known()
        columns = weight * run.basis()
        coordinates = _least_squares(columns[fit], (target - total)[fit])
        corrected = total + torch.einsum("bm...,m->b...", columns, coordinates.to(columns))
        plainly = rmse((total + weight * run.directions[-1])[held], target[held])
        if rmse(corrected[held], target[held]) < (1 - tolerance) * plainly:
            sampler.coordinates[k] = tuple(coordinates.tolist())
            run.correct(sampler.coordinates[k])
        run.advance()
    return sampler, rmse(run.x[held], task.target[held])


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """Coordinates of least squared error over all samples and pixels, float64 ``(4,)``."""
    matrix = columns.double().movedim(1, 0).flatten(1)
    gram, right = matrix @ matrix.mT, matrix @ target.double().flatten()
    found: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ right
    return found.cpu()


def find(task: Task) -> Found:
    """Search for every base solver and grid; see the module."""
    fit, held = split(task)
    best = CorrectedSampler(task.schedule, "ddim", tuple(task.base.sigmas.tolist()), {})
    least, tried = math.inf, {}
    try:
        with torch.inference_mode():
            for spacing, sigmas in grids(task).items():
                for solver, tolerance in itertools.product(SOLVERS, TOLERANCES):
                    sampler, error = _search(task, solver, sigmas, tolerance, fit, held)
                    tried[f"{solver}, {spacing}, tolerance {tolerance:g}"] = error
                    if error < least:
                        best, least = sampler, error
    except OutOfBudget:
        pass
    about: dict[str, Any] = {"solver": best.solver, "held_out_rmse": least, "sigmas": list(best.sigmas)}
    coordinates = {str(k): list(c) for k, c in best.coordinates.items()}
    return Found(best, {**about, "coordinates": coordinates, "tried": tried})
