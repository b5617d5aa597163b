"""Levels that are made for a network are those of the best of all paths, which brute force finds too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problems import Mixture, in_frame
from toy_levels import NODES, levels_of, noise

import longstride as ls
from longstride.calibration.reference.trajectory import FINE, solve_dense
from longstride.calibration.samples import Samples
from longstride.calibration.starts.dynamic_programming import (
    DISCOUNTS,
    TRAJECTORIES,
    best_levels,
    own_levels,
    step_costs,
)


def brute_force(solution, steps, discount):
    """The best of all paths: how far DDIM's steps, made by the sampler itself, leave the lines from noise to data."""
    n, cost = len(solution.sigmas), {}
    data = solution.states[-1] / float(solution.alphas[-1])
    # A point of the line at which alpha is not 0 yet; the first state may have none.
    way = solution.states[0] - float(solution.alphas[0]) * data

    def away(state, alpha):
        """Distance of a point from the line, by its angle to it."""
        point = (state / alpha - data).flatten(1)
        cosine = torch.cosine_similarity(point, way.flatten(1), dim=1)
        return point.norm(dim=1) * (1 - cosine**2).clamp(min=0).sqrt()

    for i, j in itertools.combinations(range(n), 2):
        step = ls.build("ddim", solution.sigmas[[i, j]], alphas=solution.alphas[[i, j]])
        found = ls.sample(lambda x, s, i=i: solution.outputs[i], solution.states[i], step)
        alpha = float(solution.alphas[j])
        cost[i, j] = float((away(found, alpha) - away(solution.states[j], alpha)).mean())
    paths = [(0, *inner, n - 1) for inner in itertools.combinations(range(1, n - 1), steps - 1)]
    return min(paths, key=lambda path: sum(discount**k * cost[two] for k, two in enumerate(itertools.pairwise(path))))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_the_best_levels_are_those_of_brute_force(family, zero):
    alphas, sigmas = levels_of(family, NODES[family](2))
    if zero:
        alphas, sigmas = np.append(alphas, 1.0), np.append(sigmas, 0.0)
    base = ls.build("ddim", sigmas, alphas=alphas)
    solution = solve_dense(in_frame(Mixture(), family), noise(sigmas[0], 16), base, steps=9)
    cost = step_costs(solution)
    for steps, discount in itertools.product((1, 2, 3, 5, 8, 9), (1.0, 1.2, 2.0)):
        levels = best_levels(solution.sigmas, cost, steps, discount)
        assert levels.tolist() == [float(solution.sigmas[i]) for i in brute_force(solution, steps, discount)]
    several = {tuple(best_levels(solution.sigmas, cost, 4, discount)) for discount in (1.0, 1.2, 2.0)}
    assert len(several) > 1
    assert tuple(solution.sigmas[[0, 2, 4, 7, 9]]) not in several  # the choice is one, and not the even one
    for steps in (0, 10):
        with pytest.raises(ls.InputError, match=f"{steps} steps cannot be chosen among 10 levels"):
            best_levels(solution.sigmas, cost, steps, 1.2)


@pytest.mark.parametrize("unit", [3, 8, 40])
def test_the_levels_of_a_network_are_those_along_its_first_fitted_trajectories(unit):
    """Sixteen of them, whatever they are cut into; held-out samples and further ones have no say."""
    x = noise(5.0, 48)
    x[TRAJECTORIES:] *= 100
    table = ls.build("ddim", ls.grid("karras", 4, sigma_min=0.05, sigma_max=5.0, final="sigma_min"))
    samples = Samples.of(Mixture(), x, table, held_out=20, unit=unit)
    solution = solve_dense(Mixture(), x[:TRAJECTORIES], table, steps=FINE)
    found = own_levels(samples, table)
    assert set(found) == set(DISCOUNTS)
    for name, levels in found.items():
        assert levels.tolist() == best_levels(solution.sigmas, step_costs(solution), 4, DISCOUNTS[name]).tolist()
    assert samples.ledger.calls == TRAJECTORIES * (FINE + 1)
