"""The fit of everything together: right derivatives, and the optimum where it is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point
from toy_fits import FIRST, INFINITE, LAST, SIGMAS, exact, newton_of, rmse
from toy_fits import noise_of as toy_noise

import longstride as ls
from longstride.calibration.endpoint.fits import FIRST_DAMPING
from longstride.calibration.loss import Loss
from longstride.parameters import Parameters
from longstride.table import Row

noise_of = partial(toy_noise, size=5)


def ends_by_hand(problem, table, parameters, theta, x):
    """Last states as a differentiable function of theta, written from the definitions."""
    ratio = table.sigmas / table.alphas
    logs = [torch.tensor(float(v), dtype=torch.float64) for v in np.log(ratio)]
    weights = [{j: torch.tensor(w, dtype=torch.float64) for j, w in row.outputs.items()} for row in table.rows]
    firsts = [torch.tensor(row.states.get(0, 0.0), dtype=torch.float64) for row in table.rows]
    gaps = np.abs(np.diff(np.log(ratio)))
    for one, value in zip(parameters.all, theta, strict=True):
        if one.kind == "weight":
            weights[one.k - 1][one.j] = weights[one.k - 1].get(one.j, 0.0) + value
        elif one.kind == "column":
            firsts[one.k - 1] = firsts[one.k - 1] * torch.exp(value)
        else:
            room = min(gaps[one.k - 1] / 2, gaps[one.k] / 2, 1.0)
            logs[one.k] = logs[one.k] + room * torch.tanh(value / room)
    states, outputs = [x], []
    for k, row in enumerate(weights, start=1):
        outputs.append(problem(states[-1], torch.exp(logs[k - 1])))
        states.append(firsts[k - 1] * x + sum(w * outputs[j] for j, w in row.items()))
    return states[-1]


@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc"])
def test_difference_quotients_are_the_jacobian(solver):
    """Of weights, levels and the column at once; with steps that are small in float64, to their first order."""
    problem, x = Mixture(), noise_of(10)
    parameters = Parameters(4, column=True)
    parameters.steps = np.full(len(parameters), 1e-6)
    table = parameters.prepared(ls.build(solver, SIGMAS))
    target = problem.solution(x, FIRST, LAST)
    newton = newton_of(problem, x, target, held_out=2, parameters=parameters)
    zero = torch.zeros(len(parameters), dtype=torch.float64)
    assert parameters.free(table).all()
    jacobian = torch.autograd.functional.jacobian(lambda t: ends_by_hand(problem, table, parameters, t, x[:8]), zero)
    columns = jacobian.reshape(8 * 5, -1) / np.sqrt(5)
    left = (target[:8] - ls.sample(problem, x[:8], table)).reshape(-1) / np.sqrt(5)
    for c2 in (INFINITE, 1e-3):
        weight = 1 / (1 + left.view(8, 5).square().sum(1, keepdim=True) / c2).sqrt()
        weighted = columns * weight.expand(8, 5).reshape(-1, 1)
        equations = newton.equations(table, Loss(c2), newton.fitted)
        scale = np.sqrt(np.diag(equations.gram))
        gram, moment = (weighted.T @ columns).numpy(), (weighted.T @ left).numpy()
        np.testing.assert_allclose(equations.gram / np.outer(scale, scale), gram / np.outer(scale, scale), atol=1e-4)
        np.testing.assert_allclose(equations.moment / scale, moment / scale, atol=1e-4 * float(left.norm()))


def test_equations_of_several_units_are_those_of_one():
    problem, x = Mixture(), noise_of(40)
    table = Parameters(4, column=True).prepared(ls.build("ddim", SIGMAS))
    for c2 in (INFINITE, 1e-2):
        newton = newton_of(problem, x, held_out=8, unit=40)
        whole = newton.equations(table, Loss(c2), newton.fitted)
        for size in (3, 7, 32):
            newton = newton_of(problem, x, held_out=8, unit=size)
            parts = newton.equations(table, Loss(c2), newton.fitted)
            np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(parts.moment, whole.moment, rtol=1e-9, atol=1e-12)
            assert parts.energy == pytest.approx(whole.energy, rel=1e-12)
            assert parts.count == whole.count == 32 * 5


def test_stacked_runs_give_the_same_equations():
    problem, x = Mixture(), noise_of(12)
    table = Parameters(4, column=True).prepared(ls.build("ddim", SIGMAS))
    found, launches = [], []

    def counted(x, sigma):
        launches[-1] += 1
        return problem(x, sigma)

    for batch_size in (4, 1000):
        launches.append(0)
        newton = newton_of(counted, x, exact(problem, x), unit=4, batch_size=batch_size)
        found.append(newton.equations(table, Loss(1e-2), newton.fitted).gram)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-12)
    assert launches[1] < launches[0] / 2


def starts():
    rng = np.random.default_rng(0)
    base = ls.build("ddim", SIGMAS).unrolled()
    rows = tuple(Row(r.states, {j: w + 0.2 * rng.normal() for j, w in r.outputs.items()}) for r in base.rows)
    return {
        "ddim": base,
        "ipndm": ls.build("ipndm", SIGMAS),
        "unipc": ls.build("unipc", SIGMAS),
        "random": replace(base, rows=rows, exact=False),
        "nothing": replace(base, rows=tuple(Row(r.states, {0: 1e-3}) for r in base.rows), exact=False),
    }


@pytest.mark.parametrize("start", list(starts()))
@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_a_linear_problem_is_solved_exactly_from_any_start(start, mean):
    """The end is affine in the noise whatever the weights are, and so is the solution: some weights meet it."""
    problem = Gaussian(mean=mean)
    newton = newton_of(problem, noise_of(40), parameters=Parameters(4, levels=False), robust=0.0)
    fit = newton.fit(starts()[start], 30)
    before, after = (rmse(problem, table, noise_of(50, 1)) for table in (starts()[start], fit.table))
    assert before > 1e-3
    assert after < 1e-5
    assert [line.rmse for line in fit.iterations] == sorted((line.rmse for line in fit.iterations), reverse=True)


def test_one_call_is_one_division():
    """With K = 1 the only weight is <D, r> / <D, D>; a ridge pulls it to the start in proportion."""
    sigmas, problem, x = SIGMAS[[0, -1]], Mixture(), noise_of(800)
    table = ls.build("ddim", sigmas)
    output, rest = problem(x, sigmas[0]), problem.solution(x, FIRST, LAST) - table.a[1] * x
    best = float((output * rest)[:400].sum() / output[:400].square().sum())
    for ridge in (0.0, 1.0):
        newton = newton_of(problem, x, held_out=400, parameters=Parameters(1, levels=False), robust=0.0, ridge=ridge)
        expected = (best + ridge * table.b[1, 0]) / (1 + ridge)
        assert newton.fit(table, 20).table.b[1, 0] == pytest.approx(expected, abs=2e-3)
    assert abs(best - table.b[1, 0]) > 1e-2


def test_the_ridge_pulls_to_the_start():
    """A whole fit with more pull ends nearer to where it starts, and one of any strength stays there."""
    problem, parameters = Mixture(), Parameters(4)
    start = parameters.prepared(ls.build("ddim", SIGMAS))
    center, found = parameters.values(start), {}
    for ridge in (1e-3, 1.0, 1e3):
        newton = newton_of(problem, noise_of(40), parameters=parameters, robust=0.0, ridge=ridge)
        found[ridge] = float(np.abs(parameters.values(newton.fit(start, 4).table) - center).max())
    assert found[1e3] < 1e-2
    assert found[1e-3] > 10 * found[1e3]
    assert found[1e-3] > found[1.0] > found[1e3]


@pytest.mark.parametrize(("far", "bound"), [(1.0, 0.05), (30.0, 0.1), (3000.0, 0.4)])
def test_a_few_absurd_targets_do_not_rule_the_fit(far, bound):
    """However far off, a sample pulls with its distance at most; under plain squares nothing but these counts."""
    problem, x = Mixture(), noise_of(168)
    targets = problem.solution(x, FIRST, LAST)
    targets[:160:20] += far  # 5 %
    found = {}
    for robust in (0.0, 1.0):
        fit = newton_of(problem, x, targets, robust=robust).fit(ls.build("ddim", SIGMAS), 8)
        found[robust] = rmse(problem, fit.table, noise_of(200, 1))
    assert found[1.0] < bound * rmse(problem, ls.build("ddim", SIGMAS), noise_of(200, 1))
    assert found[0.0] > 2.5 * found[1.0]


@pytest.mark.parametrize("column", [False, True])
def test_directions_that_repeat_are_harmless(column):
    """Data that are one point: all outputs are the same, only the sum of a row's weights counts, and levels do not."""
    problem, x = Point(), noise_of(24)
    base = ls.build("ddim", SIGMAS).unrolled()
    wrong = tuple(Row(row.states, {j: 0.8 * w for j, w in row.outputs.items()}) for row in base.rows)
    table = replace(base, rows=wrong, exact=False)
    newton = newton_of(problem, x, parameters=Parameters(4, column=column), robust=0.0)
    equations = newton.equations(table, Loss(), newton.fitted)
    assert np.linalg.matrix_rank(equations.gram) <= 2
    fit = newton.fit(table, 10)
    assert rmse(problem, fit.table, noise_of(8, 1)) < 1e-6
    moved = fit.table.b[4] - table.b[4]
    np.testing.assert_allclose(moved, moved[0], atol=1e-6)  # of all answers the smallest
    np.testing.assert_allclose(fit.table.sigmas, table.sigmas, rtol=1e-9)


@pytest.mark.parametrize("low", [1e-3, 1e-6, 1e-9, 0.0])
def test_a_first_state_that_hardly_counts_overflows_nothing(low):
    """Its weight in the last row falls with the last level, and the step that a fit asks of it grows."""
    sigmas = np.array([80.0, 5.0, 0.5, low])
    problem = Gaussian(mean=0.0)
    for solver in ("ddim", "ipndm"):
        table, x = ls.build(solver, sigmas), 8 * noise_of(24)
        targets = problem.solution(x, (1.0, 80.0), (1.0, low))
        fit = newton_of(problem, x, targets, parameters=Parameters(3, column=True)).fit(table, 6)
        assert fit.iterations[-1].rmse < 0.5 * fit.iterations[0].rmse


def test_perfect_targets_end_the_fit():
    """A start that is already there has no median error, and nothing to gain; what was tried damps no later step."""
    problem, x, table = Mixture(), noise_of(16), ls.build("ddim", SIGMAS)
    own = ls.sample(problem, x, Parameters(4).prepared(table))
    fit = newton_of(problem, x, own, parameters=Parameters(4)).fit(table, 4)
    assert fit.stopped == "no step lowers the objective"
    assert fit.damping == FIRST_DAMPING
    assert fit.table.distance(table) < 1e-12
