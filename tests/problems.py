"""Closed-form problems: data whose exact denoiser, and whose exact probability-flow solution, can be written down.

Every problem is called as ``problem(x, sigma, alpha=1.0)`` and returns ``E[x_0 | x]``, ``x = alpha x_0 + sigma eps``.
It acts on each coordinate by itself, so ``x`` may have any shape. A *level* is a pair ``(alpha, sigma)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Family = Literal["ve", "vp", "flow"]
Level = tuple[float, float]


def alpha_of(family: Family, sigma: float) -> float:
    """Alpha of a family at its own sigma."""
    return {"ve": 1.0, "vp": math.sqrt(max(0.0, 1 - sigma * sigma)), "flow": 1 - sigma}[family]


def level_of_lambda(family: Family, lam: float) -> Level:
    """``(alpha, sigma)`` with ``log(alpha / sigma) = lam``."""
    ratio = math.exp(-lam)
    alpha = {"ve": 1.0, "vp": 1 / math.sqrt(1 + ratio * ratio), "flow": 1 / (1 + ratio)}[family]
    return alpha, alpha * ratio


def in_frame(problem, family: Family):
    """``denoiser(x, sigma)`` of a problem, for states on the family's own scale."""
    return lambda x, sigma: problem(x, sigma, alpha_of(family, sigma))


@dataclass(frozen=True)
class Point:
    """Data that are one value."""

    value: float = 0.7

    def __call__(self, x: Tensor, sigma: float, alpha: float = 1.0) -> Tensor:
        return torch.full_like(x, self.value)

    def solution(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """The solution through ``x`` at level ``start``: ``alpha c + sigma eps`` with ``eps`` fixed by ``x``."""
        return end[0] * self.value + end[1] * (x - start[0] * self.value) / start[1]


@dataclass(frozen=True)
class Gaussian:
    """Data ``N(mean, std²)``; the solution keeps its position in standard deviations."""

    mean: float = 0.5
    std: float = 0.86

    def __call__(self, x: Tensor, sigma: float, alpha: float = 1.0) -> Tensor:
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)

    def solution(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """``x - alpha mu`` grows as ``sqrt(alpha² s² + sigma²)`` along the flow."""
        (a0, s0), (a1, s1) = start, end
        growth = math.hypot(a1 * self.std, s1) / math.hypot(a0 * self.std, s0)
        return a1 * self.mean + growth * (x - a0 * self.mean)


@dataclass(frozen=True)
class Mixture:
    """Data from a Gaussian mixture. In one dimension the flow keeps quantiles, so its solution is exact too."""

    weights: tuple[float, ...] = (0.4, 0.6)
    means: tuple[float, ...] = (-1.0, 1.2)
    stds: tuple[float, ...] = (0.5, 0.6)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (-1, *(1,) * x.ndim)
        return tuple(torch.tensor(v, dtype=x.dtype).view(shape) for v in (self.weights, self.means, self.stds))

    def __call__(self, x: Tensor, sigma: float, alpha: float = 1.0) -> Tensor:
        weights, means, stds = self._parts(x)
        variance = alpha**2 * stds**2 + sigma**2
        away = x - alpha * means
        share = (weights.log() - 0.5 * (variance.log() + away**2 / variance)).softmax(0)
        return (share * (means + alpha * stds**2 / variance * away)).sum(0)

    def quantile(self, x: Tensor, level: Level) -> Tensor:
        """Probability below ``x`` at a level."""
        weights, means, stds = self._parts(x)
        alpha, sigma = level
        return (weights * torch.special.ndtr((x - alpha * means) / (alpha**2 * stds**2 + sigma**2).sqrt())).sum(0)

    def solution(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """The value at level ``end`` with the quantile that ``x`` has at level ``start``, by bisection."""
        target = self.quantile(x, start)
        reach = 10 * (end[0] * max(self.stds) + end[1] + end[0] * max(map(abs, self.means)))
        low, high = torch.full_like(x, -reach), torch.full_like(x, reach)
        for _ in range(64):
            middle = (low + high) / 2
            below = self.quantile(middle, end) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
