"""Further steps of a fit on hard samples, beside its own: see :mod:`longstride.calibration.mining`.

A few hundred samples hold few lost ones, so that a fit does not see what it does to them. Among the hard samples of a
pool there are as many as in the whole pool. With its share as their weight, the objective is an estimate of the same
mean as before, and its tail is that of the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from longstride.calibration.endpoint.fits import Fit
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.loss import relative_scales
from longstride.calibration.mining import Pool, mined, runs
from longstride.calibration.reference.solve import start_of
from longstride.calibration.samples import Samples
from longstride.calibration.units import Units
from longstride.errors import InputError
from longstride.parameters import Parameters
from longstride.table import SolverTable

__all__ = ["TAUGHT", "taught"]

#: Steps on hard samples.
TAUGHT = 2


def taught(
    samples: Samples,
    parameters: Parameters,
    residual: Residual,
    base: SolverTable,
    fit: Fit,
    *,
    count: int,
    part: float,
    robust: float,
    ridge: float,
    rank: int | None,
    floor: float | None,
    say: Callable[[], None],
) -> Fit:
    """A fit after further steps on hard samples and its own; the iterations before are included.

    Args:
        samples: The samples, with their reference solution.
        parameters: The free numbers.
        residual: The feature map.
        base: The classical table.
        fit: The fit on the samples.
        count: Number of samples of the pool.
        part: Share of hard samples.
        robust: See :class:`GaussNewton`.
        ridge: See :class:`GaussNewton`.
        rank: See :class:`GaussNewton`.
        floor: See :func:`~longstride.calibration.loss.relative_scales`; None: plain errors.
        say: Called after every step.
    """
    pool = mined(samples, fit.table, base, "mined-fit", count, part)
    own = runs(samples, samples.units.all, fit.table, base)
    both, few = _joined(samples, pool), samples.fitted
    mine, theirs = pool.weights(own.apart[:few])
    weights = np.concatenate([mine, theirs, np.ones(samples.held_out)])
    squared = np.concatenate([own.base[:few], pool.runs.base, own.base[few:]])
    scales = None if floor is None else relative_scales(squared, floor, weights)
    newton = GaussNewton(
        both, parameters, residual, robust=robust, ridge=ridge, rank=rank, scales=scales, weights=weights
    )
    try:
        new = newton.fit(fit.table, TAUGHT, prior=fit.prior, say=say)
    except InputError:  # the fit is finite on its own samples, but not on all hard samples
        return fit
    finally:
        samples.charge(both)
    return replace(new, iterations=(*fit.iterations, *new.iterations[1:]))


def _joined(samples: Samples, pool: Pool) -> Samples:
    """The samples, with the hard samples as further fitted samples."""
    assert samples.reference is not None
    assert pool.hard.reference is not None
    few, hard, own = samples.fitted, pool.hard, torch.arange(len(samples))
    noise = torch.cat([samples.noise[:few], hard.noise, samples.noise[few:]])
    ends, more = samples.reference.samples, pool.hard.reference.samples
    target = torch.cat([ends[:few], more.to(ends), ends[few:]])
    made = replace(
        samples,
        network=samples.network.select(torch.cat([own[:few], pool.places, own[few:]])),
        noise=noise,
        fitted=few + len(hard),
        units=Units(len(noise), few + len(hard), samples.units.size),
        reference=replace(samples.reference, samples=target, start=start_of(noise, samples.ends)),
    )
    folder = samples.journal.folder
    return made.kept(None if folder is None else folder / "taught")
