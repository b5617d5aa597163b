"""Fine solutions: their levels stop where the network was not trained, and many steps meet the exact solution."""

from __future__ import annotations

import numpy as np
import pytest
from problems import Gaussian
from toy_fits import noise_of

import longstride as ls
from longstride.calibration.reference.solve import errors, refine

SIGMAS = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def test_refined_levels_stop_at_the_floor():
    table = ls.build("ddim", [10.0, 1.0, 0.0])
    inner = refine(table, 1, 2, 3, floor=0.1).sigmas
    assert inner[0] == 1.0
    assert inner[-2:].tolist() == [0.1, 0.0]
    assert refine(table, 1, 2, 5, floor=1.0).sigmas.tolist() == [1.0, 0.0]
    whole = refine(table, 0, 1, 4, floor=0.1).sigmas
    assert (whole[0], whole[-1], len(whole)) == (10.0, 1.0, 5)


@pytest.mark.parametrize("family", ["ve", "flow"])
def test_the_reference_is_the_exact_solution(family):
    problem = Gaussian()
    if family == "ve":
        table, x, denoiser, start = ls.build("ddim", SIGMAS), noise_of(8, 1), problem, (1.0, SIGMAS[0])
    else:
        sigmas = np.array([1.0, 0.6, 0.2])
        table, x, start = ls.build("ddim", sigmas, alphas=1 - sigmas), noise_of(8, 1) / SIGMAS[0], (0.0, 1.0)
        denoiser = lambda x, sigma: problem(x, sigma, 1 - sigma)  # noqa: E731
    reference = ls.solve_reference(denoiser, x, table, steps=128)
    exact = problem.solution(x, start, (float(table.alphas[-1]), float(table.sigmas[-1])))
    error = errors(reference.samples, exact).rmse
    assert error < 1e-4
    assert error < reference.error < 100 * error + 1e-4
