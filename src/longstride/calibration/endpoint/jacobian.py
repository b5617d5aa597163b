"""How the last states of a table change with its free numbers, by difference quotients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import double
from longstride.calibration.endpoint.low_rank import LowRank, calls_of_low_rank
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.prefix_runs import PrefixRuns
from longstride.network import Network
from longstride.parameters import Parameters
from longstride.table import SolverTable

__all__ = ["Linearised", "calls_of_jacobian", "linearised"]


@dataclass(frozen=True)
class Linearised:
    """Residuals of some samples and their columns, both times the root of the sample's weight.

    Attributes:
        columns: One tensor ``(b, F)`` per free number; zeros for a number that cannot move.
        left: Residuals, ``(b, F)``.
        squared: Squared residuals without a weight, ``(b,)``, in float64.
    """

    columns: list[Tensor]
    left: Tensor
    squared: Tensor


def linearised(
    network: Network,
    noise: Tensor,
    target: Tensor,
    table: SolverTable,
    parameters: Parameters,
    residual: Residual,
    root_weight: Callable[[Tensor], Tensor],
    batch_size: int | None,
    low_rank: LowRank | None = None,
) -> Linearised:
    """Residuals of a table on some samples, and their derivatives.

    Args:
        network: The network, bound to the samples.
        noise: First states ``(b, *)``.
        target: Reference samples ``(b, *)``.
        table: A table as :meth:`.Parameters.prepared` returns it.
        parameters: The free numbers.
        residual: The feature map.
        root_weight: Gives the root of the weights ``(b,)`` for squared residuals ``(b,)``.
        batch_size: Most samples per network call of several runs; None: every run makes its own calls.
        low_rank: Derivatives by a few directions per level; default: a difference quotient of every number.
    """
    free, steps = parameters.free(table), parameters.steps
    runs = PrefixRuns(network, noise, table)
    if low_rank is None:
        moved = [parameters.moved(table, steps * unit) for unit in np.eye(len(parameters))[free]]
        ends = runs.ends(moved, batch_size)
    else:
        ends = low_rank.ends(runs, parameters, steps, batch_size)
    here = residual(runs.end)
    left = residual(target) - here
    squared = double(left).square().sum(1)
    weight = root_weight(squared)[:, None].to(left)
    ends.reverse()  # ends are popped, so that none is held beside its quotient
    quotients = iter([(residual(ends.pop()) - here) * (weight / h) for h in steps[free]])
    zero = torch.zeros_like(left)
    return Linearised([next(quotients) if may else zero for may in free], left * weight, squared)


def calls_of_jacobian(parameters: Parameters, rank: int | None = None) -> int:
    """Network calls per sample of :func:`linearised`, the run of the table itself included, if all numbers can move.

    Args:
        parameters: The free numbers.
        rank: Directions per level; None: a difference quotient of every number.
    """
    if rank is not None:
        return calls_of_low_rank(parameters, rank)
    return parameters.nfe + sum(parameters.nfe - one.k for one in parameters.all)
