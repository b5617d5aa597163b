"""The scale of a network's data, as universal tables see it: chosen by a few samples, for less than 100 calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.calibration.starts.universal import scaled_tables
from longstride.errors import InputError
from longstride.network import as_network
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["ROUGH", "DataScale", "measure_std"]

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

    A rough solution of the samples has some standard deviation. Of this, its half and its double, the scale is taken
    whose universal table comes nearest to the rough solution, by the mean logarithm of the errors. Three samples at 5
    network calls cost 93 calls. The scale then serves every number of calls.

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
    squared = {part * std: squared_errors(sample(network, noise, one), rough.samples) for part, one in tables.items()}
    scores = {scale: float(np.log(np.maximum(found, 1e-30)).mean()) for scale, found in squared.items()}
    errors = {scale: float(np.sqrt(found.mean())) for scale, found in squared.items()}
    return DataScale(min(scores, key=lambda scale: scores[scale]), std, errors, network.calls - before)
