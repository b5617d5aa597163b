"""Clean runs of the table that a calibration settled on, for the card's monitor.

The calibration's own samples are run, and if more are asked for, fresh samples from noise that is drawn here, with the
conditions of the calibration's samples in turn.
"""

from __future__ import annotations

import numpy as np
import torch

from longstride.arrays import Array
from longstride.calibration.fresh import fresh
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.errors import InputError
from longstride.guard.normal import FEWEST, MOST_STATISTICS, Normal, fit_normal
from longstride.guard.statistics import Recorder, names
from longstride.journal import table_digest
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["CLEAN_RUNS", "clean_runs"]

#: Default number of clean runs: thresholds for one false alarm in a thousand windows gain little from more.
CLEAN_RUNS = 256


def clean_runs(samples: Samples, table: SolverTable, count: int) -> tuple[Normal | None, int]:
    """The distribution of the statistics of clean runs, and network calls for fresh samples.

    Args:
        samples: Samples of the calibration.
        table: The table.
        count: Number of runs; no more than the calibration's own samples need no fresh noise. 0: none.

    Returns:
        The distribution, or None if too few runs are asked for or are finite, or the table makes too many calls.

    Raises:
        InputError: a negative number of runs.
    """
    if count < 0:
        raise InputError(f"expected a number of clean runs of 0 or more, got {count}")
    if count < FEWEST or len(names(table.nfe)) > MOST_STATISTICS:
        return None, 0
    found, calls = _statistics(samples, table)[:count], 0
    if count > len(samples):
        more = fresh(samples, "clean", count - len(samples))
        found = np.concatenate([found, _statistics(more, table)])
        calls = more.total_calls()
    return fit_normal(found), calls


def _statistics(samples: Samples, table: SolverTable) -> Array:
    @torch.inference_mode()
    def run(batch: Batch) -> list[Array]:
        recorder = Recorder(table)
        Run(batch.noise, table).finish(batch.network, recorder)
        return batch.split(recorder.read())

    width, name = len(names(table.nfe)), f"clean/{table_digest(table)[:20]}"
    return np.concatenate(samples.map(name, samples.units.all, run, lambda b: (b, width)))
