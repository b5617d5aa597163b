"""Clean runs of a table, for the distribution of their statistics."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longstride.errors import InputError
from longstride.guard.normal import FEWEST, MOST_STATISTICS, Normal, fit_normal
from longstride.guard.statistics import Recorder, names
from longstride.network import in_batches
from longstride.sampler import DenoiserLike, Run
from longstride.table import SolverTable

__all__ = ["normal_of"]


@torch.inference_mode()
def normal_of(denoiser: DenoiserLike, noise: Tensor, table: SolverTable, *, batch_size: int = 64) -> Normal:
    """The distribution of the statistics of runs of a table.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: First states, ``(B, *)``.
        table: The table.
        batch_size: Most samples per network call.

    Raises:
        InputError: fewer than 32 runs are finite, or the table makes too many calls.
    """
    if len(names(table.nfe)) > MOST_STATISTICS:
        raise InputError(f"no card can hold the distribution of the statistics of {table.nfe} network calls")
    network, found = in_batches(denoiser, batch_size), []
    for begin in range(0, len(noise), batch_size):
        part = slice(begin, min(begin + batch_size, len(noise)))
        recorder = Recorder(table)
        Run(noise[part], table).finish(network.select(part), recorder)
        found.append(recorder.read())
    normal = fit_normal(np.concatenate(found)) if found else None
    if normal is None:
        raise InputError(f"{FEWEST} or more runs must be finite to tell what clean runs look like, of {len(noise)}")
    return normal
