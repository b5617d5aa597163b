"""Rows fitted to a converged trajectory: exact on a linear problem, never worse on held-out samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture
from toy_fits import FIRST, SIGMAS, noise_of, squared

import longstride as ls
from longstride.calibration.rowwise.whole_trajectory import GlobalSettings, calibrate_global
from longstride.calibration.samples import Samples


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("base", ["ddim", "ipndm", "heun", "unipc"])
def test_rows_of_a_whole_trajectory_fit_never_lose_on_held_out_samples(base, window):
    table = ls.build(base, SIGMAS)
    samples = Samples.of(Mixture(), noise_of(48), table, held_out=24)
    fitted, rows = calibrate_global(samples, table, GlobalSettings(window), "fitted")
    assert [row.row for row in rows] == list(range(1, table.nfe + 1))
    for row in rows:
        assert row.accepted == (row.held_out_error <= row.held_out_base_error)
        assert (fitted.rows[row.row - 1] == table.rows[row.row - 1]) == (not row.accepted)
        assert len(row.labels) == len(row.coefficients) <= (window or row.row)
        assert row.labels == tuple(f"data({j})" for j in range(row.row - 1, -1, -1))[: len(row.labels)]
    assert any(row.held_out_error < (0.5 if window is None else 0.95) * row.held_out_base_error for row in rows)


def test_a_whole_trajectory_fit_meets_the_solution_of_a_linear_problem():
    """Centred Gaussian data: all outputs are multiples of the noise, so every state can be met exactly."""
    problem, table = Gaussian(mean=0.0), ls.build("ddim", SIGMAS)
    samples = Samples.of(problem, noise_of(16), table, held_out=8, steps=256)
    fitted, rows = calibrate_global(samples, table, GlobalSettings(ridge=0.0), "fitted")
    # The root of a difference of inner products: the root of the rounding of float64, times the size of the states.
    assert all(row.held_out_error < 1e-8 * SIGMAS[0] for row in rows)
    x, levels = noise_of(8, 1), []
    ls.sample(problem, x, fitted, callback=lambda k, sigma, state, d: levels.append((sigma, state)))
    for sigma, state in levels:  # not the last state alone
        torch.testing.assert_close(state, problem.solution(x, FIRST, (1.0, sigma)), rtol=0, atol=2e-3)
    assert np.sqrt(squared(problem, fitted, x).mean()) < 1e-2 * np.sqrt(squared(problem, table, x).mean())


def test_a_whole_trajectory_fit_repairs_what_single_steps_cannot():
    """A first row that is wrong on purpose: later rows aim at the trajectory, and bring the run back to it."""
    problem, base = Mixture(), ls.build("ddim", SIGMAS).unrolled()
    x = noise_of(200)
    local = ls.calibrate(problem, x, base, method="iia", r=1)
    whole = ls.calibrate(problem, x, base, method="global")
    fresh = noise_of(200, 1)
    errors = [np.sqrt(squared(problem, table, fresh).mean()) for table in (base, local.table, whole.table)]
    assert whole.end.accepted
    assert errors[2] < 0.25 * errors[1] < errors[0]


def test_a_converged_run_that_is_not_finite_is_an_error():
    with pytest.raises(ls.NonFiniteError, match="call 1"):
        ls.calibrate(lambda x, s: x * float("nan"), noise_of(8), ls.build("ddim", SIGMAS), method="global")
