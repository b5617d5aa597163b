"""The scale of a network's data, as universal tables see it: chosen by a few samples, for less than 100 calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.calibration.starts.universal import scaled_tables
from longstride.errors import InputError
from longstride.network import as_network
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["ROUGH", "DataScale", "chosen", "measure_std"]

#: Another scale than 1 must lower the mean logarithm of the errors by as much.
_CLEAR = -0.25
#: Steps of the rough solution.
ROUGH = 16


@dataclass(frozen=True)
class DataScale:
    """Result of :func:`measure_std`.

    Attributes:
        data_std: Scale for :func:`longstride.universal`, and for the option ``data_std`` of the solver.
        sample_std: Standard deviation of the samples.
        errors: Root-mean-square error of the universal table at every scale that was tried.
        calls: Network calls, in samples.
    """

    data_std: float
    sample_std: float
    errors: Mapping[float, float]
    calls: int


@torch.inference_mode()
def measure_std(denoiser: DenoiserLike, noise: Tensor, table: SolverTable) -> DataScale:
    """Choose the scale of universal tables for a network, by a few samples.

    A rough solution of the samples has some standard deviation. Its half or its double takes its place if the universal
    table of that scale comes clearly nearer to the rough solution; see :func:`chosen`. Three samples at 5 network calls
    cost 93 calls. The scale then serves every number of calls.

    Args:
        denoiser: The network, bound to the conditions of the samples.
        noise: ``table.sigmas[0]`` times standard normal noise, shape ``(B, *)``; a few samples do.
        table: Gives the network calls, such as 5, and the first and last level; such as ``longstride.universal(5,
            schedule=...)``.

    Raises:
        InputError: no universal table has as many calls or starts so near, or the samples are not finite.
    """
    network = as_network(denoiser)
    before = network.calls
    rough = solve_reference(network, noise, table, steps=ROUGH, check_samples=0)
    std = float(rough.samples.float().std())
    if not np.isfinite(std) or std == 0:
        raise InputError(f"the samples have standard deviation {std}: check the network, its schedule and precision")
    guidance = 1.0 if network.guidance is None else network.guidance
    tables = scaled_tables(table, network.schedule, std, guidance)
    if not tables:
        raise InputError(
            f"there is no universal table of {table.nfe} calls between these levels: take longstride.universal(5, "
            "schedule=...) as table"
        )
    squared = {part: squared_errors(sample(network, noise, one), rough.samples) for part, one in tables.items()}
    errors = {part * std: float(np.sqrt(found.mean())) for part, found in squared.items()}
    return DataScale(chosen(squared) * std, std, errors, network.calls - before)


def chosen(squared: Mapping[float, Array]) -> float:
    r"""The scale that is clearly better than 1, or 1.

    With squared errors e of a scale, and e' of the scale 1, it needs :math:`e_n < e'_n` for every sample, and a mean of
    :math:`\tfrac12 \log (e_n / e'_n)` below -0.25. A few samples and a rough solution tell no more.

    Args:
        squared: Squared errors ``(B,)`` by scale over the standard deviation; without a scale of 1 the least mean
            logarithm decides.
    """
    logs = {part: 0.5 * np.log(np.maximum(found, 1e-30)) for part, found in squared.items()}
    usual = logs.get(1.0)
    ways = {part: found if usual is None else found - usual for part, found in logs.items()}
    clear = {part: way.mean() for part, way in ways.items() if usual is None or (way.max() < 0 and way.mean() < _CLEAR)}
    return min(clear, key=lambda part: clear[part]) if clear else 1.0
