"""Fine solutions: their levels stop where the network was not trained, and many steps meet the exact solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Gaussian
from toy_fits import noise_of

import longstride as ls
from longstride.calibration.reference.solve import converged_nodes, errors, refine
from longstride.families import alpha_of_ratio, alpha_of_sigma

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
    assert error < 2e-4
    assert error < reference.error < 100 * error + 1e-4


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
@pytest.mark.parametrize("zero", [False, True])
def test_levels_are_even_in_the_share_of_the_cube_root_of_sigma(family, zero):
    sigmas = np.array([80.0 if family == "ve" else 0.999, 0.01])
    alphas = alpha_of_sigma(family, sigmas)
    sigmas, alphas = (np.append(sigmas, 0.0), np.append(alphas, 1.0)) if zero else (sigmas, alphas)
    found = converged_nodes(ls.build("ddim", sigmas, alphas=alphas), 12, floor=0.01 * float(alphas[1]))
    assert len(found.sigmas) == 13
    assert [found.sigmas[0], found.sigmas[-1]] == [sigmas[0], sigmas[-1]]
    share = np.cbrt(found.sigmas) / (np.cbrt(found.alphas) + np.cbrt(found.sigmas))
    steps = np.diff(share[:-1] if zero else share)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    np.testing.assert_allclose(found.alphas, alpha_of_ratio(family, found.ratios), atol=1e-12)


def test_a_reference_solution_is_the_same_in_every_frame():
    """Its levels depend on sigma / alpha alone, and so do the steps of UniPC."""
    problem, x, ends = Gaussian(), noise_of(8, 1) / SIGMAS[0], {}
    for family in ("ve", "vp", "flow"):
        alphas = alpha_of_ratio(family, np.array([80.0, 0.05]))
        sigmas = np.array([80.0, 0.05]) * alphas
        table = ls.build("ddim", sigmas, alphas=alphas)
        denoiser = lambda x, sigma, f=family: problem(x, sigma, float(alpha_of_sigma(f, sigma)))  # noqa: E731
        ends[family] = ls.solve_reference(denoiser, x * sigmas[0], table, steps=24).samples / alphas[1]
    torch.testing.assert_close(ends["vp"], ends["ve"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ends["flow"], ends["ve"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["vp", "flow"])
def test_broad_data_need_few_steps_from_alpha_zero(family):
    """Of data of standard deviation 12 the state turns early, where sigma / alpha is still above 12."""
    problem, x = Gaussian(std=12.0), noise_of(8, 1) / SIGMAS[0]
    sigmas = np.array([1.0, 0.01])
    alphas = alpha_of_sigma(family, sigmas)
    denoiser = lambda x, sigma: problem(x, sigma, float(alpha_of_sigma(family, sigma)))  # noqa: E731
    found = ls.solve_reference(denoiser, x, ls.build("ddim", sigmas, alphas=alphas), steps=64).samples
    exact = problem.solution(x, (0.0, 1.0), (float(alphas[-1]), float(sigmas[-1])))
    assert errors(found, exact).rmse < 1e-3 * float(exact.std())


@pytest.mark.parametrize("steps", [2, 3, 2000])
@pytest.mark.parametrize("family", ["vp", "flow"])
def test_levels_fall_from_alpha_zero_at_any_number_of_steps(family, steps):
    sigmas = np.array([1.0, 0.3, 0.0])
    table = ls.build("ddim", sigmas, alphas=alpha_of_sigma(family, sigmas))
    found = converged_nodes(table, steps, floor=0.01)
    assert found.alphas[0] == 0
    assert np.all(np.diff(found.sigmas) < 0)
    assert found.sigmas[-2:].tolist() == [0.01, 0.0]


def test_a_reference_solution_makes_at_least_one_step():
    table = ls.build("ddim", [10.0, 1.0, 0.0])
    assert converged_nodes(table, 1, floor=0.1).sigmas.tolist() == [10.0, 0.0]
    assert converged_nodes(table, 5, floor=20.0).sigmas.tolist() == [10.0, 0.0]
    with pytest.raises(ls.InputError, match="at least 1 step, got 0"):
        converged_nodes(table, 0, floor=0.1)
