"""A converged run that can be asked for any level, and the levels that are chosen along it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, alpha_of, in_frame

import longstride as ls
from longstride.calibration.reference.trajectory import DenseSolution, solve_dense
from longstride.calibration.starts.classical import CLASSICAL, classical_tables
from longstride.calibration.starts.dynamic_programming import best_levels, step_costs

PROBLEM = Gaussian()
#: Last level of every frame, and its levels even in the parameter that the slopes are taken in.
LOW = {"ve": 0.05, "vp": 0.1, "flow": 0.05}
NODES = {
    "ve": lambda n: np.linspace(5.0, LOW["ve"], n + 1),
    "vp": lambda n: np.sin(np.linspace(np.pi / 2, np.arcsin(LOW["vp"]), n + 1)),
    "flow": lambda n: np.linspace(1.0, LOW["flow"], n + 1),
}


def noise(sigma, count=8, seed=0):
    return sigma * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels_of(family, sigmas):
    alphas = np.array([alpha_of(family, sigma) for sigma in sigmas])
    alphas[0] = 0.0 if family == "vp" else alphas[0]
    return alphas, np.array(sigmas)


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


# Starts


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


SCHEDULES = {
    "ve": ls.Schedule.edm(0.02, 40.0),
    "vp": ls.Schedule.vp(),
    "flow": ls.Schedule.flow(),
}


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("family", list(SCHEDULES))
def test_classical_tables_share_calls_and_ends(family, final):
    schedule = SCHEDULES[family]
    found_any = set()
    two_calls = [("heun", 3)] if family == "ve" else []
    for solver, steps in (("ddim", 1), ("ddim", 5), ("dpmpp_2m", 8), *two_calls):
        like = ls.build(solver, ls.grid("uniform", steps, schedule=schedule, final=final), schedule=schedule)
        own = np.geomspace(float(like.sigmas[0]), 0.03, like.nfe + 1)
        own[-1] = like.sigmas[-1]
        found = classical_tables(like, schedule, schedule.sigma_range[0], {"dp": own})
        for name, table in found.items():
            assert table.nfe == like.nfe
            assert table.sigmas[[0, -1]].tolist() == like.sigmas[[0, -1]].tolist()
            assert table.alphas[[0, -1]].tolist() == like.alphas[[0, -1]].tolist()
            assert np.all(np.diff(table.sigmas) < 0)
            assert table.exact
            assert table.name == CLASSICAL[name.partition("@")[0]][0]
            if name.endswith("@dp"):
                assert table.sigmas.tolist() == own.tolist()
        assert {"ddim@uniform", "ddim@dp", "ddim@log_snr"} <= set(found)
        found_any |= set(found)
    assert {name.partition("@")[0] for name in found_any} >= {"ddim", "dpmpp_2m", "dpmpp_3m", "unipc2", "unipc3"}


def test_flows_have_a_grid_with_sd3_s_shift():
    schedule = SCHEDULES["flow"]
    like = ls.build("ddim", ls.grid("uniform", 5, schedule=schedule), schedule=schedule)
    levels = classical_tables(like, schedule)["unipc3@shift3"].sigmas
    even = np.append(np.linspace(1, levels[-2] / (3 - 2 * levels[-2]), 5), 0)
    np.testing.assert_allclose(levels, 3 * even / (1 + 2 * even), rtol=1e-12)
    assert "unipc3@shift3" not in classical_tables(ls.build("ddim", [3.0, 1.0, 0.1]), SCHEDULES["ve"])


def test_classical_tables_without_a_schedule_need_no_network_time():
    like = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.02, sigma_max=40.0))
    found = classical_tables(like)
    assert {name.partition("@")[2] for name in found} == {"karras", "log_snr"}
    assert found["ddim@karras"].distance(like) == 0.0


def test_grids_of_the_whole_schedule_are_left_out_where_the_table_begins_elsewhere():
    schedule = SCHEDULES["ve"]
    like = ls.build("ddim", ls.grid("karras", 5, schedule=schedule, sigma_max=10.0), schedule=schedule)
    assert {name.partition("@")[2] for name in classical_tables(like, schedule)} == {"karras", "log_snr"}
