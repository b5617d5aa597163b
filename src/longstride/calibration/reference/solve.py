"""Fine-grained solutions to compare with: between two states of a table, or from its noise to its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longstride.arrays import Array, double
from longstride.errors import InputError
from longstride.families import alpha_of_sigma
from longstride.journal import digest
from longstride.network import as_network, in_batches
from longstride.nodes import Nodes
from longstride.reports import Errors
from longstride.sampler import DenoiserLike, sample
from longstride.schedule import Schedule
from longstride.solvers import SOLVERS
from longstride.table import SolverTable

__all__ = [
    "Reference",
    "coarse_error",
    "converged_table",
    "errors",
    "least_level",
    "refine",
    "solve_reference",
    "squared_errors",
    "start_of",
]


def refine(
    table: SolverTable, start: int, end: int, steps: int, floor: float, schedule: Schedule | None = None
) -> Nodes:
    """Levels of a finer solution between two states of ``table``.

    With alpha = 1 the levels are even in ``sigma^(1/7)`` (Karras et al., 2022), in flow even in sigma, and on a
    variance-preserving scale even in the angle ``arcsin sigma``, in which the start at alpha = 0 is smooth. No level
    lies strictly between 0 and ``floor``, where the network was not trained: a solution that ends at 0 goes from
    ``floor`` there in its last step.

    Args:
        table: The sampler.
        start: State to start from.
        end: State to arrive at.
        steps: Number of fine steps, at least 1; fewer come back where the floor leaves no room.
        floor: Least positive level.
        schedule: The network's, for solvers whose formulas use its times.
    """
    if steps < 1:
        raise InputError(f"a fine solution needs at least 1 step, got {steps}")
    high, low = float(table.sigmas[start]), float(table.sigmas[end])
    to_zero, family = low == 0, Nodes(table.alphas, table.sigmas).family
    if to_zero and (steps == 1 or high <= floor):
        sigmas = np.array([high, low])
    else:
        bottom, count = (floor, steps) if to_zero else (low, steps + 1)
        if family == "vp":
            sigmas = np.sin(np.linspace(np.arcsin(high), np.arcsin(bottom), count))
        else:
            power = 7.0 if family == "ve" else 1.0
            sigmas = np.linspace(high ** (1 / power), bottom ** (1 / power), count) ** power
        sigmas[0], sigmas[-1] = high, bottom
        sigmas = np.append(sigmas, 0.0) if to_zero else sigmas
    return Nodes.of(sigmas, alpha_of_sigma(family, sigmas), schedule)


def squared_errors(samples: Tensor, target: Tensor) -> Array:
    """Mean squared error of every sample, shape ``(B,)``, for tensors of shape ``(B, *)``."""
    squared: Array = (double(samples) - double(target)).square().flatten(1).mean(1).cpu().numpy()
    return squared


def errors(samples: Tensor, target: Tensor) -> Errors:
    """Both errors, for tensors of shape ``(B, *)``."""
    return Errors.of(squared_errors(samples, target))


@dataclass(frozen=True)
class Reference:
    """A converged solution.

    Attributes:
        samples: Last states, shape of the noise.
        error: Root-mean-square difference to a solution with half the steps, on the first samples: what the reference
            with half the steps is wrong by, and more than it is itself where it converges.
        nfe: Network calls per sample of the main solution.
        start: Digest of the noise and of the first and last level; see :func:`start_of`.
    """

    samples: Tensor
    error: float
    nfe: int
    start: str = ""


def start_of(noise: Tensor, table: SolverTable) -> str:
    """Digest of the noise and of the first and last level: solutions with the same one can be compared."""
    ends = [0, -1]
    return digest(noise, table.sigmas[ends], table.alphas[ends])


def solve_reference(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    steps: int = 64,
    solver: str = "unipc",
    check_samples: int = 8,
    batch_size: int | None = None,
    sigma_floor: float | None = None,
) -> Reference:
    """Solve from ``noise`` to the last level of ``table`` with many steps, and estimate the error of doing so.

    Args:
        denoiser: The network.
        noise: First states at ``table.sigmas[0]``, shape ``(B, *)``.
        table: Gives the first and the last level.
        steps: Fine steps.
        solver: Which solver takes them.
        check_samples: Samples on which the error is estimated; 0 leaves the error NaN.
        batch_size: Most samples per network call; default: all at once.
        sigma_floor: Least positive level that the network knows; default: see :func:`least_level`.
    """
    network = as_network(denoiser)
    floor = least_level(network.schedule, table) if sigma_floor is None else sigma_floor
    fine = converged_table(table, steps, floor, solver)
    samples = sample(in_batches(network, batch_size or len(noise)), noise, fine)
    error = float("nan")
    if check_samples > 0:
        few = slice(check_samples)
        error = coarse_error(network.select(few), noise[few], table, samples[few], steps, floor, solver)
    return Reference(samples, error, fine.nfe, start_of(noise, table))


def converged_table(table: SolverTable, steps: int, floor: float, solver: str = "unipc") -> SolverTable:
    """The solver of a converged solution from the first to the last level of ``table``.

    Args:
        table: Gives the two levels.
        steps: Fine steps.
        floor: Least positive level.
        solver: Its name.
    """
    return SOLVERS[solver](refine(table, 0, table.nfe, steps, floor))


def coarse_error(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    samples: Tensor,
    steps: int,
    floor: float,
    solver: str = "unipc",
) -> float:
    """Root-mean-square difference of converged samples to a solution with half the steps, from the same noise.

    Args:
        denoiser: The network, bound to the samples.
        noise: First states ``(b, *)``.
        table: Gives the first and the last level.
        samples: Converged samples ``(b, *)``.
        steps: Fine steps that they took.
        floor: Least positive level.
        solver: Name of the solver.
    """
    few = sample(denoiser, noise, converged_table(table, max(1, steps // 2), floor, solver))
    return float((few - samples).square().mean().sqrt())


def least_level(schedule: Schedule | None, table: SolverTable) -> float:
    """Least positive level: the schedule's if there is one, and never above the table's own."""
    own = float(table.sigmas[table.sigmas > 0].min())
    return own if schedule is None else min(own, schedule.sigma_range[0])
