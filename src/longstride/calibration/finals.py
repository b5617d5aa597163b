r"""Which of several whole fits takes the last steps: one that ends near where it should, in what looks like data.

Two tables of equal error differ in what is wrong with their samples. One ends in another picture of the data now and
then, the other in a mean of such pictures everywhere, and people (and Fréchet distances) prefer the first. The network
tells them apart: of a sample x it says what it would take away as noise,

.. math:: n(x) = x - D(\alpha x, \sigma), \qquad \text{for VE} \quad n(x) = -\sigma^2\, \nabla \log p_\sigma(x),

the score of the blurred data, small and alike for all that looks like data. So beside its squared error
:math:`|x - x^*|^2` a fit has a squared error in this *detail*, :math:`|n(x) - n(x^*)|^2`, and the fit with the least
product of both, each by its robust mean over held-out samples, is used.

The level is :math:`\sigma / \alpha = 0.3` standard deviations of the converged samples: far below it the network sees
hardly any structure, far above it detail becomes the error itself.

References:
    Blau & Michaeli, The perception-distortion tradeoff, CVPR 2018, for what no error alone can see; Efron, Tweedie's
    formula and selection bias, 2011, for the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.fits import robust_mean, robust_scale
from longstride.calibration.normal_equations import Array, double, infinite_for_nan
from longstride.calibration.reference import Errors, Reference, squared_errors
from longstride.calibration.unknowns import level_ratios
from longstride.journal import table_digest
from longstride.nodes import Nodes
from longstride.sampler import DenoiserLike, Run
from longstride.schedule import alpha_of_ratio
from longstride.table import SolverTable

__all__ = ["DETAIL", "Final", "best_final", "detail_level", "details"]

#: Level of detail, in standard deviations of the converged samples.
DETAIL = 0.3


@dataclass(frozen=True)
class Final:
    """A whole fit on held-out samples, before the last steps.

    Attributes:
        rmse: Root-mean-square error.
        detail: Root-mean-square error of what the network would take away as noise.
        score: Product of the robust means of both squared errors, over the least one; what is compared.
    """

    rmse: float
    detail: float
    score: float


def detail_level(table: SolverTable, samples: Tensor, floor: float) -> tuple[float, float]:
    """Alpha and sigma of the network call that detail is seen by.

    Args:
        table: Gives the process, and the highest level.
        samples: Converged ones.
        floor: Least positive level that the network knows.
    """
    ratio = min(max(DETAIL * float(double(samples).std()), floor), float(level_ratios(table)[0]))
    alpha = float(alpha_of_ratio(Nodes(table.alphas, table.sigmas).family, ratio))
    return alpha, alpha * ratio


def details(samples: Tensor, denoiser: DenoiserLike, level: tuple[float, float]) -> Tensor:
    """What a network would take away from clean samples ``(B, *)`` as noise, in their own shape.

    Args:
        samples: Last states.
        denoiser: The network, bound to them; called once.
        level: Alpha and sigma that it is told.
    """
    alpha, sigma = level
    return samples - denoiser(alpha * samples, sigma)


def best_final(
    batches: Batches, tables: Mapping[str, SolverTable], reference: Reference, *, floor: float, most: float
) -> tuple[str, dict[str, Final]]:
    """The best of several fitted tables, and how all of them stand on held-out samples.

    Args:
        batches: The samples.
        tables: By name; where there is one alone nothing is measured.
        reference: Converged samples.
        floor: Least positive level that the network knows.
        most: A table whose root-mean-square error is larger is not chosen while another one's is not.
    """
    if len(tables) == 1:
        return next(iter(tables)), {}
    level = detail_level(next(iter(tables.values())), reference.samples, floor)
    squared = {name: _squared(batches, table, reference, level) for name, table in tables.items()}
    squared = {name: found for name, found in squared.items() if np.isfinite(found).all()}
    if not squared:
        return next(iter(tables)), {}
    scale = [min(robust_scale(found[:, n]) for found in squared.values()) for n in range(2)]
    means = {
        name: robust_mean(found[:, 0], scale[0]) * robust_mean(found[:, 1], scale[1]) for name, found in squared.items()
    }
    least = min(means.values()) or 1.0
    finals = {
        name: Final(Errors.of(found[:, 0]).rmse, Errors.of(found[:, 1]).rmse, means[name] / least)
        for name, found in squared.items()
    }
    return min(finals, key=lambda name: (finals[name].rmse > most, finals[name].score)), finals


def _squared(batches: Batches, table: SolverTable, reference: Reference, level: tuple[float, float]) -> Array:
    """Squared errors of held-out samples and of their detail, shape ``(B, 2)``; infinite where they are not finite."""
    found: dict[int, Array] = {}
    for batch in batches.held_out:

        def measure(batch: Batch = batch) -> dict[str, Array]:
            with torch.inference_mode():
                target = reference.samples[batch.part]
                end = Run(batch.noise, table).finish(batch.denoiser)
                seen, aim = (details(x, batch.denoiser, level) for x in (end, target))
                return {"squared": np.stack([squared_errors(end, target), squared_errors(seen, aim)], 1)}

        name = f"finals/{table_digest(table)[:20]}/{batch.number}"
        found[batch.number] = batches.part(name, measure)["squared"]
    numbers = batches.numbers(held_out=True)
    squared = np.concatenate(batches.gather(found, numbers, lambda b: (b, 2)))
    return infinite_for_nan(squared)
