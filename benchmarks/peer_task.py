"""What a peer of the benchmark is given, and what it gives back.

A peer is another method that makes a pretrained network faster. It is a function from a :class:`Task` to
:class:`Found`, written from what its authors published. Each has a file of its own in ``benchmarks/peers``, which says
what was simplified.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longstride.calibration.reference.trajectory import DenseSolution
from longstride.denoiser import Denoiser
from longstride.evaluation.source import Sampler
from longstride.schedule import Schedule
from longstride.table import SolverTable

__all__ = ["Found", "Meter", "OutOfBudget", "Peer", "Task", "differentiable"]


class OutOfBudget(Exception):
    """The network calls that a peer may spend are used up; it returns what it has."""


@dataclass
class Meter:
    """Counts network calls in samples, and ends a search that may spend no more.

    A backward pass through the network, for the gradient by its input alone, costs as much as a forward pass and
    counts as one.

    Attributes:
        budget: Most calls; None: no limit.
        forward: Forward passes so far, in samples.
        backward: Backward passes so far, in samples.
    """

    budget: int | None = None
    forward: int = 0
    backward: int = 0

    @property
    def calls(self) -> int:
        """Both together."""
        return self.forward + self.backward

    def count(self, samples: int, *, backward: bool = False) -> None:
        """Note a pass of ``samples`` samples.

        Raises:
            OutOfBudget: there is no budget for it.
        """
        if self.budget is not None and self.calls + samples > self.budget:
            raise OutOfBudget
        if backward:
            self.backward += samples
        else:
            self.forward += samples


@dataclass
class Task:
    """One network, one number of calls.

    Attributes:
        denoiser: The network bound to the calibration samples; ``denoiser.select(part)`` is it for some of them. It
            is called through :meth:`call` or :func:`differentiable`, which count.
        schedule: Its schedule.
        nfe: Network calls that the sampler may spend per sample.
        noise: First states of the calibration samples, ``(B, *)``, at level ``sigmas[0]``.
        solution: Their converged solution: its end is the target, and it can be asked at any level.
        base: The classical table (DDIM on the model's usual grid) whose first and last level every sampler shares.
        meter: Counts what the peer spends beyond ``solution``, which all peers are given.
        seed: Of the peer's own random choices.
    """

    denoiser: Denoiser
    schedule: Schedule
    nfe: int
    noise: Tensor
    solution: DenseSolution
    base: SolverTable
    meter: Meter = field(default_factory=Meter)
    seed: int = 0

    @property
    def target(self) -> Tensor:
        """Converged samples, ``(B, *)``."""
        return self.solution.end

    @property
    def sigma_max(self) -> float:
        """First level."""
        return float(self.base.sigmas[0])

    @property
    def sigma_min(self) -> float:
        """Last level, positive."""
        return float(self.base.sigmas[-1])

    def call(self, x: Tensor, sigma: float, part: slice = slice(None)) -> Tensor:
        """One counted network call without gradients, for the calibration samples in ``part``."""
        self.meter.count(len(x))
        with torch.inference_mode():
            return self.denoiser.select(part)(x, sigma)


@dataclass(frozen=True)
class Found:
    """A sampler, and what it took to find it.

    Attributes:
        sampler: A table, or a function ``sampler(denoiser, noise)``; it spends ``nfe`` calls.
        about: What the results file says of the search, as plain data: iterations, settings.
    """

    sampler: Sampler
    about: dict[str, Any] = field(default_factory=dict)


#: A peer.
Peer = Callable[[Task], Found]


class _Call(torch.autograd.Function):
    """A denoiser whose gradient by the state is exact, and by the level a difference quotient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_sigma: Tensor, denoiser: Denoiser, meter: Meter) -> Tensor:
        meter.count(len(x))
        with torch.enable_grad():
            inner = x.detach().requires_grad_(True)
            level = float(log_sigma.detach())
            out = denoiser(inner, math.exp(level))
        ctx.inner, ctx.out, ctx.log_sigma, ctx.denoiser, ctx.meter = inner, out, level, denoiser, meter
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        by_state, by_level = None, None
        if ctx.needs_input_grad[0]:
            ctx.meter.count(len(grad), backward=True)
            (by_state,) = torch.autograd.grad(ctx.out, ctx.inner, grad)
        if ctx.needs_input_grad[1]:
            # Not counted: with a network that is differentiable in time this comes with the backward pass.
            step, still = 1e-2, ctx.inner.detach()
            with torch.no_grad():
                up, down = (ctx.denoiser(still, math.exp(ctx.log_sigma + move)) for move in (step, -step))
            by_level = ((up - down) * grad).sum().double() / (2 * step)
        return by_state, by_level, None, None


def differentiable(task: Task, x: Tensor, log_sigma: Tensor, part: slice = slice(None)) -> Tensor:
    """One counted network call with gradients by the state and by the level.

    Args:
        task: The task.
        x: States ``(b, *)`` of the calibration samples in ``part``.
        log_sigma: Logarithm of the level, a float64 scalar tensor.
        part: Which samples.
    """
    found: Tensor = _Call.apply(x, log_sigma, task.denoiser.select(part), task.meter)  # type: ignore[no-untyped-call]
    return found
