r"""The choice of the whole fit that takes the last steps: by errors of samples, and by errors of their detail.

Tables of equal error are wrong in different ways. A first table ends in another picture of the data now and then. A
second table ends in a mean of pictures everywhere. People and Fréchet distances prefer the first. The network tells the
two apart, by the noise that it would take away from a sample x:

.. math:: n(x) = x - D(\alpha x, \sigma), \qquad \text{for VE} \quad n(x) = -\sigma^2\, \nabla \log p_\sigma(x).

This *detail* is small and alike for all samples that look like data. A fit has the squared errors :math:`|x - x^*|^2`
of its samples and :math:`|n(x) - n(x^*)|^2` of their detail. The fit with the least product of both is chosen, each as
its mean robust loss over held-out samples. A fit that the gate would refuse comes after all fits that it would accept.

The level is :math:`\sigma / \alpha = 0.3` standard deviations of the reference samples. Far below this level the
network sees hardly any structure. Far above it, the error of detail becomes the error of samples.

References:
    Blau & Michaeli, The perception-distortion tradeoff, CVPR 2018, for what no error alone can see; Efron, Tweedie's
    formula and selection bias, 2011, for the score.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double, infinite_for_nan
from longstride.calibration.acceptance.gate import objection
from longstride.calibration.loss import Loss
from longstride.calibration.reference.solve import squared_errors
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.course import Course
from longstride.families import alpha_of_ratio
from longstride.journal import table_digest
from longstride.network import Network
from longstride.nodes import Nodes
from longstride.parameters import level_ratios
from longstride.reports import Errors, WholeFit
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["DETAIL", "best_whole_fit", "detail_level", "details"]

#: Level of detail, in standard deviations of the reference samples.
DETAIL = 0.3


def detail_level(table: SolverTable, samples: Tensor, floor: float) -> tuple[float, float]:
    """Alpha and sigma of the network call that measures detail.

    Args:
        table: Gives the process, and the highest level.
        samples: Reference samples.
        floor: Least positive level that the network knows.
    """
    ratio = min(max(DETAIL * float(double(samples).std()), floor), float(level_ratios(table)[0]))
    alpha = float(alpha_of_ratio(Nodes(table.alphas, table.sigmas).family, ratio))
    return alpha, alpha * ratio


def details(samples: Tensor, network: Network, table: SolverTable, level: tuple[float, float]) -> Tensor:
    """Noise that a network would take away from clean samples ``(B, *)``, in the same shape.

    Args:
        samples: Last states.
        network: The network, bound to the samples; called once.
        table: The sampler; the call is one of a run through its levels.
        level: Alpha and sigma of the call.
    """
    alpha, sigma = level
    return samples - network.at(*Course.of(table).through(alpha, sigma))(alpha * samples, sigma)


def best_whole_fit(
    samples: Samples,
    tables: Mapping[str, SolverTable],
    *,
    before: Array | None = None,
    margin: float = 0.0,
    confidence: float = 0.95,
) -> tuple[str, dict[str, WholeFit]]:
    """Name of the best of several fitted tables, and the errors of all tables on held-out samples.

    Args:
        samples: The samples, with their reference solution.
        tables: Tables by name. A single table is not measured.
        before: Squared errors of the base on held-out samples, shape ``(B,)``. A table that the gate would refuse for
            them is chosen only if it would refuse all. None: the gate is not asked.
        margin: Margin of the gate.
        confidence: Confidence that the gate asks for.
    """
    first = next(iter(tables))
    if len(tables) == 1:
        return first, {}
    assert samples.reference is not None
    level = detail_level(tables[first], samples.reference.samples, samples.floor)
    squared = {name: _squared(samples, table, level) for name, table in tables.items()}
    squared = {name: found for name, found in squared.items() if np.isfinite(found).all()}
    if not squared:
        return first, {}
    losses = [Loss.common(found[:, n] for found in squared.values()) for n in range(2)]
    means = {name: losses[0].mean(found[:, 0]) * losses[1].mean(found[:, 1]) for name, found in squared.items()}
    least = min(means.values()) or 1.0
    fits = {
        name: WholeFit(Errors.of(found[:, 0]).rmse, Errors.of(found[:, 1]).rmse, means[name] / least)
        for name, found in squared.items()
    }

    def refused(name: str) -> bool:
        return before is not None and bool(objection(squared[name][:, 0], before, margin, confidence=confidence))

    return min(fits, key=lambda name: (refused(name), fits[name].score)), fits


def _squared(samples: Samples, table: SolverTable, level: tuple[float, float]) -> Array:
    """Squared errors of held-out samples and of their detail, shape ``(B, 2)``; infinite for NaN."""

    def measure(batch: Batch) -> list[Array]:
        with torch.inference_mode():
            target = samples.targets(batch)
            end = Run(batch.noise, table).finish(batch.network)
            seen, aim = (details(x, batch.network, table, level) for x in (end, target))
            return batch.split(np.stack([squared_errors(end, target), squared_errors(seen, aim)], 1))

    numbers = samples.units.held_out
    found = samples.map(f"whole-fits/{table_digest(table)[:20]}", numbers, measure, lambda b: (b, 2))
    return infinite_for_nan(np.concatenate(found))
