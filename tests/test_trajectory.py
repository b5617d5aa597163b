"""A converged run that can be asked for its state at any level: exact there, and accurate to fourth order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problems import Gaussian, alpha_of, in_frame
from toy_levels import LOW, NODES, levels_of, noise

import longstride as ls
from longstride.calibration.reference.trajectory import DenseSolution, solve_dense

PROBLEM = Gaussian()


def exact(family, steps, zero=False):
    """A run whose states and outputs are the closed-form ones."""
    alphas, sigmas = levels_of(family, NODES[family](steps))
    x, start, denoiser = noise(sigmas[0]), (alphas[0], sigmas[0]), in_frame(PROBLEM, family)
    states = [PROBLEM.solution(x, start, (a, s)) for a, s in zip(alphas, sigmas, strict=True)]
    outputs = [denoiser(state, float(s)) for state, s in zip(states, sigmas, strict=True)]
    if zero:
        alphas, sigmas = np.append(alphas, 1.0), np.append(sigmas, 0.0)
        states.append(outputs[-1])
    return DenseSolution(alphas, sigmas, tuple(states), tuple(outputs), len(outputs)), x


def closed_form(family, x, sigma):
    alphas, sigmas = levels_of(family, NODES[family](1))
    return PROBLEM.solution(x, (alphas[0], sigmas[0]), (alpha_of(family, sigma), sigma))


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_between_levels_it_is_accurate_to_fourth_order(family):
    """Also in the first interval, which begins at alpha = 0 in the frames of vp and flow."""
    for part in (slice(0, 1), slice(None)):
        worst = []
        for steps in (32, 64, 128):
            solution, x = exact(family, steps)
            found = 0.0
            for high, low in list(itertools.pairwise(solution.sigmas))[part]:
                for t in (0.2, 0.5, 0.8):
                    sigma = float(high + t * (low - high))
                    found = max(found, float((solution.at(sigma) - closed_form(family, x, sigma)).abs().max()))
            worst.append(found)
        assert worst[-1] > 1e-13  # above rounding, so that the order can be seen
        orders = np.log2(np.array(worst[:-1]) / worst[1:])
        assert np.all(orders > 3.6), (part, worst)


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_at_its_own_levels_it_is_the_run_itself(family):
    for zero in (False, True):
        solution, _ = exact(family, 7, zero)
        for sigma, state in zip(solution.sigmas, solution.states, strict=True):
            assert torch.equal(solution.at(float(sigma)), state)
        assert solution.end is solution.states[-1]


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_it_goes_over_its_levels_without_a_jump(family):
    """The step to sigma 0 too, where the alpha of the asked level is not yet 1."""
    solution, _ = exact(family, 7, zero=True)
    for i, sigma in enumerate(solution.sigmas.tolist()):
        for near in (sigma * (1 + 1e-9), sigma * (1 - 1e-9), 1e-12):
            if (near != 1e-12 or sigma == 0) and near <= solution.sigmas[0]:
                # sqrt(1e-9): how fast alpha rises from 0 in the frame of vp
                torch.testing.assert_close(solution.at(near), solution.states[i], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_the_step_to_zero_is_one_of_ddim(family):
    solution, _ = exact(family, 7, zero=True)
    low = float(solution.sigmas[-2])
    for sigma in (0.9 * low, 0.5 * low, 0.1 * low):
        alphas = [alpha_of(family, low), alpha_of(family, sigma)]
        step = ls.build("ddim", [low, sigma], alphas=alphas)
        expected = ls.sample(lambda x, s: solution.outputs[-1], solution.states[-2], step)
        torch.testing.assert_close(solution.at(sigma), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_a_solved_run_is_the_exact_solution(family, zero):
    alphas, sigmas = levels_of(family, NODES[family](4))
    if zero:
        alphas, sigmas = np.append(alphas, 1.0), np.append(sigmas, 0.0)
    table, x, calls = ls.build("ddim", sigmas, alphas=alphas), noise(sigmas[0]), []
    problem = in_frame(PROBLEM, family)

    def denoiser(x, sigma):
        calls.append(sigma)
        return problem(x, sigma)

    solution = solve_dense(denoiser, x, table, steps=256)
    assert len(calls) == solution.nfe == len(solution.outputs) == 256 + (not zero)
    assert len(solution.states) == 257
    assert min(calls) == pytest.approx(LOW[family], rel=1e-12)
    for sigma in np.linspace(sigmas[0], LOW[family], 23):
        error = float((solution.at(float(sigma)) - closed_form(family, x, float(sigma))).abs().max())
        # Levels are even in sigma, so the first of vp's steps is a long one where alpha rises from 0.
        assert error < (1e-2 if family == "vp" else 2e-3)
    assert torch.equal(solution.end, solution.at(float(sigmas[-1])))


def test_levels_outside_the_run_are_refused():
    solution, _ = exact("ve", 4)
    for sigma in (5.1, 0.04, float("nan")):
        with pytest.raises(ls.InputError, match=r"runs from sigma 5 to 0.05, it has no level"):
            solution.at(sigma)
