"""What the tests of calibration share: levels, noise, samples whose exact ends are known, and fits of these."""

from __future__ import annotations

from dataclasses import replace

import torch
from problems import Level

import longstride as ls
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.reference.solve import Reference, squared_errors
from longstride.calibration.samples import Samples
from longstride.parameters import Parameters

SCHEDULE = ls.Schedule.edm(0.05, 10.0)
SIGMAS = ls.grid("karras", 4, schedule=SCHEDULE, final="sigma_min")
FIRST: Level = (1.0, float(SIGMAS[0]))
LAST: Level = (1.0, float(SIGMAS[-1]))
INFINITE = float("inf")
PIXELS = Residual()


def noise_of(count, seed=0, size=6):
    """First states at the first of the levels, ``(count, size)``."""
    return SIGMAS[0] * torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(problem, x):
    """Where samples end."""
    return problem.solution(x, FIRST, LAST)


def squared(problem, table, x):
    """Squared error of a table on every sample, ``(B,)``."""
    return squared_errors(ls.sample(problem, x, table), exact(problem, x))


def rmse(problem, table, x):
    """Root-mean-square error of a table."""
    return float((ls.sample(problem, x, table) - exact(problem, x)).square().mean().sqrt())


def with_targets(samples, targets):
    """The same samples with other ends."""
    return replace(samples, reference=Reference(targets, 0.0, 1))


def samples_of(denoiser, x, targets=None, held_out=8, ends=SIGMAS, journal=None, **options):
    """Samples whose ends are known: ``targets``, or the exact ends of a problem."""
    samples = Samples.of(denoiser, x, ls.build("ddim", ends), held_out=held_out, **options).kept(journal)
    return with_targets(samples, exact(denoiser, x) if targets is None else targets)


def newton_of(denoiser, x, targets=None, held_out=8, parameters=None, unit=8, batch_size=None, **settings):
    """A fit of everything on samples whose ends are known."""
    samples = samples_of(denoiser, x, targets, held_out, unit=unit, batch_size=batch_size)
    return GaussNewton(samples, parameters or Parameters(4, column=True), PIXELS, **settings)


def networked(problem):
    """A problem as a network with a schedule."""
    return ls.as_denoiser(lambda x, t: problem(x, float(t[0])), SCHEDULE, "data")
