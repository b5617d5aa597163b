r"""Fine solutions: between two states of a table, and the reference solution from its first level to its last.

Levels of a reference solution are even in

.. math:: u = \frac{\sigma^{1/3}}{\alpha^{1/3} + \sigma^{1/3}},

which runs from 1 at alpha = 0 to 0 at sigma = 0 in every family. So the levels crowd where signal and noise are about
equal, and a solution may begin at alpha = 0. ``python -m benchmarks.reference_levels`` compares other levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longstride.arrays import Array, double
from longstride.errors import InputError
from longstride.families import alpha_of_ratio, alpha_of_sigma, part_of_ratio, ratio_of_part
from longstride.journal import digest
from longstride.network import in_batches
from longstride.nodes import Nodes
from longstride.reports import Errors
from longstride.sampler import DenoiserLike, sample
from longstride.schedule import Schedule
from longstride.solvers.unipc import unipc
from longstride.table import SolverTable

__all__ = [
    "ORDER",
    "Reference",
    "coarse_error",
    "converged_nodes",
    "converged_table",
    "errors",
    "least_level",
    "refine",
    "solve_reference",
    "squared_errors",
    "start_of",
]

#: ``sigma / alpha`` that stands for all higher ratios where levels are spaced: a solution may begin at alpha = 0, and
#: the next sigma of a variance-preserving process must differ from 1.
_NOISE = 1e6
#: Order of UniPC in reference solutions. On trained networks order 3 is nearer to convergence than order 2 from 20
#: steps on.
ORDER = 3


def refine(
    table: SolverTable, start: int, end: int, steps: int, floor: float, schedule: Schedule | None = None
) -> Nodes:
    """Levels of a finer solution between two states of ``table``.

    The levels are even in ``sigma^(1/7)`` for alpha = 1 (Karras et al., 2022), and in sigma for a flow. On a
    variance-preserving scale they are even in the angle ``arcsin sigma``, in which the start at alpha = 0 is smooth. No
    level lies strictly between 0 and ``floor``: a solution that ends at 0 makes its last step from ``floor``.

    Args:
        table: The sampler.
        start: State to start from.
        end: State to arrive at.
        steps: Number of fine steps, at least 1; from a level at or below the floor to 0 there is one step.
        floor: Least positive level.
        schedule: The network's schedule, for solvers whose formulas use times.

    Raises:
        InputError: fewer than 1 step.
    """
    if steps < 1:
        raise InputError(f"a fine solution needs at least 1 step, got {steps}")
    high, low = float(table.sigmas[start]), float(table.sigmas[end])
    family, (bottom, count) = Nodes(table.alphas, table.sigmas).family, _before_zero(high, low, steps, floor)
    if family == "vp":
        sigmas = np.sin(np.linspace(np.arcsin(high), np.arcsin(bottom), count))
    else:
        power = 7.0 if family == "ve" else 1.0
        sigmas = np.linspace(high ** (1 / power), bottom ** (1 / power), count) ** power
    sigmas[0], sigmas[-1] = high, bottom
    sigmas = np.append(sigmas, 0.0) if low == 0 else sigmas
    return Nodes.of(sigmas, alpha_of_sigma(family, sigmas), schedule)


def _before_zero(high: float, low: float, steps: int, floor: float) -> tuple[float, int]:
    """The last level that a solution spaces, and how many it spaces: a last step to 0 comes after them."""
    if low > 0:
        return low, steps + 1
    return (high, 1) if steps == 1 or high <= floor else (floor, steps)


def squared_errors(samples: Tensor, target: Tensor) -> Array:
    """Mean squared error of every sample, shape ``(B,)``, for tensors of shape ``(B, *)``."""
    squared: Array = (double(samples) - double(target)).square().flatten(1).mean(1).cpu().numpy()
    return squared


def errors(samples: Tensor, target: Tensor) -> Errors:
    """Both errors, for tensors of shape ``(B, *)``."""
    return Errors.of(squared_errors(samples, target))


@dataclass(frozen=True)
class Reference:
    """A reference solution.

    Attributes:
        samples: Last states, in the shape of the noise.
        error: Root-mean-square difference to a solution with half the steps, on a few samples. It is about the error of
            the solution with half the steps, and above the error of this one if both converge.
        nfe: Network calls per sample.
        start: Digest of the noise and of the first and last level; see :func:`start_of`.
    """

    samples: Tensor
    error: float
    nfe: int
    start: str = ""


def start_of(noise: Tensor, table: SolverTable) -> str:
    """Digest of the noise and of the first and last level: solutions with the same digest can be compared."""
    ends = [0, -1]
    return digest(noise, table.sigmas[ends], table.alphas[ends])


def solve_reference(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    steps: int = 64,
    check_samples: int = 8,
    batch_size: int | None = None,
    sigma_floor: float | None = None,
) -> Reference:
    """Solve from ``noise`` to the last level of ``table`` with many steps, and estimate the error of the solution.

    Args:
        denoiser: The network.
        noise: First states at ``table.sigmas[0]``, shape ``(B, *)``.
        table: Gives the first and the last level.
        steps: Number of fine steps.
        check_samples: Number of samples on which the error is estimated; 0: the error is NaN.
        batch_size: Most samples per network call; default: all at once.
        sigma_floor: Least positive level that the network knows; default: see :func:`least_level`.
    """
    network = in_batches(denoiser, batch_size or len(noise))
    floor = least_level(network.schedule, table) if sigma_floor is None else sigma_floor
    fine = converged_table(table, steps, floor)
    samples = sample(network, noise, fine)
    error = float("nan")
    if check_samples > 0:
        few = slice(check_samples)
        error = coarse_error(network.select(few), noise[few], table, samples[few], steps, floor)
    return Reference(samples, error, fine.nfe, start_of(noise, table))


def converged_table(table: SolverTable, steps: int, floor: float) -> SolverTable:
    """The table of a reference solution from the first to the last level of ``table``: UniPC.

    Args:
        table: Gives the two levels.
        steps: Number of fine steps.
        floor: Least positive level.
    """
    return unipc(converged_nodes(table, steps, floor), order=ORDER)


def converged_nodes(table: SolverTable, steps: int, floor: float) -> Nodes:
    """Levels of a reference solution from the first to the last level of ``table``.

    No level lies strictly between 0 and ``floor``: a solution that ends at 0 makes its last step from ``floor``.

    Args:
        table: Gives the two levels.
        steps: Number of fine steps, at least 1; from a level at or below the floor to 0 there is one step.
        floor: Least positive level.

    Raises:
        InputError: fewer than 1 step.
    """
    if steps < 1:
        raise InputError(f"a reference solution needs at least 1 step, got {steps}")
    high, low = float(table.sigmas[0]), float(table.sigmas[-1])
    family, (bottom, count) = Nodes(table.alphas, table.sigmas).family, _before_zero(high, low, steps, floor)
    ends = np.array([high, bottom])[:count]
    alphas = alpha_of_sigma(family, ends)
    parts = part_of_ratio(np.cbrt(np.minimum(Nodes(alphas, ends).ratios, _NOISE)))
    ratios = ratio_of_part(np.linspace(parts[0], parts[-1], count)[1:-1]) ** 3
    inner = alpha_of_ratio(family, ratios)
    sigmas = np.concatenate([ends[:1], ratios * inner, ends[1:], [0.0] * (low == 0)])
    return Nodes.of(sigmas, np.concatenate([alphas[:1], inner, alphas[1:], [1.0] * (low == 0)]))


def coarse_error(
    denoiser: DenoiserLike, noise: Tensor, table: SolverTable, samples: Tensor, steps: int, floor: float
) -> float:
    """Root-mean-square difference of reference samples to a solution with half the steps, from the same noise.

    Args:
        denoiser: The network, bound to the samples.
        noise: First states ``(b, *)``.
        table: Gives the first and the last level.
        samples: Reference samples ``(b, *)``.
        steps: Number of fine steps of the reference solution.
        floor: Least positive level.
    """
    few = sample(denoiser, noise, converged_table(table, max(1, steps // 2), floor))
    return float((few - samples).square().mean().sqrt())


def least_level(schedule: Schedule | None, table: SolverTable) -> float:
    """Least positive level: the least level of the table, or of the schedule if that is lower."""
    own = float(table.sigmas[table.sigmas > 0].min())
    return own if schedule is None else min(own, schedule.sigma_range[0])
