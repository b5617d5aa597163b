r"""A reference solution with a state at any level.

One run with many steps serves every step count and every grid. Between two levels of the run the state is a Hermite
cubic: it meets both states, with the slopes of the ODE there. In a parameter u of the process,

.. math:: \frac{dx}{du} = \alpha'(u)\, D + \sigma'(u)\, \frac{x - \alpha D}{\sigma},

with u = sigma for variance-exploding and flow processes. On a variance-preserving scale u is the angle
:math:`\arcsin\sigma`, in which the slope is finite at alpha = 0, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import converged_table, least_level
from longstride.course import Course
from longstride.errors import InputError
from longstride.families import Family, alpha_of_sigma
from longstride.network import as_network
from longstride.nodes import Nodes
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["FINE", "DenseSolution", "solve_dense"]

#: Default number of steps.
FINE = 64


@dataclass(frozen=True, eq=False)
class DenseSolution:
    """States of one fine run, and the network's outputs there.

    Attributes:
        alphas: Shape ``(N + 1,)``.
        sigmas: Shape ``(N + 1,)``, falling; the last may be 0.
        states: ``N + 1`` tensors ``(B, *)``.
        outputs: ``N + 1`` tensors, clean predictions at the states; N tensors if the run ends at sigma 0.
        nfe: Network calls per sample.
    """

    alphas: Array
    sigmas: Array
    states: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nfe: int

    @property
    def end(self) -> Tensor:
        """The last state."""
        return self.states[-1]

    def select(self, part: slice) -> DenseSolution:
        """The solution of some samples."""
        states, outputs = ([x[part] for x in kept] for kept in (self.states, self.outputs))
        return replace(self, states=tuple(states), outputs=tuple(outputs))

    def at(self, sigma: float) -> Tensor:
        """State at level ``sigma``, shape ``(B, *)``.

        Raises:
            InputError: the level lies outside the run.
        """
        if not self.sigmas[-1] <= sigma <= self.sigmas[0]:
            ends = f"{self.sigmas[0]:g} to {self.sigmas[-1]:g}"
            raise InputError(f"the solution runs from sigma {ends}, it has no level {sigma:g}")
        i = int(np.searchsorted(-self.sigmas, -sigma, side="right")) - 1
        if sigma == self.sigmas[i] or i + 1 == len(self.sigmas):
            return self.states[i]
        family = Nodes(self.alphas, self.sigmas).family
        if i + 1 >= len(self.outputs):  # the step to sigma 0, where the clean prediction hardly moves: DDIM
            ratio, alpha = sigma / float(self.sigmas[i]), float(alpha_of_sigma(family, sigma))
            return self.states[i] * ratio + self.outputs[i] * (alpha - float(self.alphas[i]) * ratio)
        start, end, u = (_parameter(family, s) for s in (float(self.sigmas[i]), float(self.sigmas[i + 1]), sigma))
        h, t = end - start, (u - start) / (end - start)
        first, second = self._slope(family, i), self._slope(family, i + 1)
        found: Tensor = (
            self.states[i] * ((1 + 2 * t) * (1 - t) ** 2)
            + self.states[i + 1] * (t * t * (3 - 2 * t))
            + first * (h * t * (1 - t) ** 2)
            + second * (h * t * t * (t - 1))
        )
        return found

    def _slope(self, family: Family, i: int) -> Tensor:
        """``dx/du`` at state ``i``."""
        alpha, sigma = float(self.alphas[i]), float(self.sigmas[i])
        noise = (self.states[i] - alpha * self.outputs[i]) / sigma
        if family == "ve":
            return noise
        return noise - self.outputs[i] if family == "flow" else alpha * noise - sigma * self.outputs[i]


def _parameter(family: Family, sigma: float) -> float:
    return float(np.arcsin(sigma)) if family == "vp" else sigma


@torch.inference_mode()
def solve_dense(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    steps: int = FINE,
    sigma_floor: float | None = None,
) -> DenseSolution:
    """Solve from ``noise`` to the last level of ``table`` with many steps, and keep every state.

    Args:
        denoiser: The network.
        noise: First states at ``table.sigmas[0]``, shape ``(B, *)``.
        table: Gives the first and the last level.
        steps: Number of fine steps; about ``2 steps`` tensors of the size of the noise are kept.
        sigma_floor: Least positive level that the network knows; default: see
            :func:`~longstride.calibration.reference.solve.least_level`.
    """
    floor = least_level(as_network(denoiser).schedule, table) if sigma_floor is None else sigma_floor
    fine = converged_table(table, steps, floor)
    states: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
        states.append(x)
        outputs.append(prediction.clone())  # the network may use its tensor again

    states.append(sample(denoiser, noise, fine, callback=keep))
    last = float(fine.sigmas[-1])
    if last > 0:
        network = as_network(denoiser)
        outputs.append(network.at(Course.of(fine).on(), fine.nfe)(states[-1].clone(), last))
    return DenseSolution(fine.alphas, fine.sigmas, tuple(states), tuple(outputs), len(outputs))
