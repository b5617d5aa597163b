"""The closed-form problems themselves: their denoisers and their solutions agree."""

from __future__ import annotations

import math

import pytest
import torch
from problems import Gaussian, Mixture, Point, alpha_of, in_frame, level_of_lambda

PROBLEMS = {"point": Point(), "gaussian": Gaussian(), "mixture": Mixture()}
X = torch.tensor([-2.0, -1.1, 0.3, 1.4, 2.5], dtype=torch.float64)


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_solution_solves_the_probability_flow(name, family):
    """Along the solution d(x / alpha) / d(sigma / alpha) is the noise prediction (central difference)."""
    problem, start, step = PROBLEMS[name], level_of_lambda(family, -0.7), 1e-4
    ratio = start[1] / start[0]
    ahead, behind = (level_of_lambda(family, -math.log(ratio + d)) for d in (step, -step))
    slope = (problem.solution(X, start, ahead) / ahead[0] - problem.solution(X, start, behind) / behind[0]) / (2 * step)
    noise = (X - start[0] * problem(X, start[1], start[0])) / start[1]
    torch.testing.assert_close(slope, noise, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", PROBLEMS)
def test_solution_returns_to_where_it_came_from(name):
    problem, start, end = PROBLEMS[name], (1.0, 2.0), (1.0, 0.3)
    back = problem.solution(problem.solution(X, start, end), end, start)
    torch.testing.assert_close(back, X, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("family", ["vp", "flow"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_own_scale_is_the_same_denoiser(name, family):
    sigma = 0.6
    alpha = alpha_of(family, sigma)
    own = in_frame(PROBLEMS[name], family)(alpha * X, sigma)
    torch.testing.assert_close(own, PROBLEMS[name](X, sigma / alpha), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("family", ["vp", "flow"])
def test_pure_noise_says_nothing_about_the_data(family):
    mixture = Mixture()
    mean = sum(w * m for w, m in zip(mixture.weights, mixture.means, strict=True))
    torch.testing.assert_close(in_frame(mixture, family)(X, 1.0), torch.full_like(X, mean))
