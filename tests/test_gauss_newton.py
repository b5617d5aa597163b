"""The fit of everything together: right derivatives, the optimum where it is known, no harm where it is not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point

import longstride as ls
from longstride.calibration import unknowns as module
from longstride.calibration.acceptance.stability import EPSILON, gain, largest_weights
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.residuals import RESIDUALS
from longstride.calibration.loss import FIRST_DAMPING, robust_mean, robust_scale
from longstride.calibration.samples import Batches
from longstride.parameters import Unknowns
from longstride.table import Row

SIGMAS = ls.grid("karras", 4, sigma_min=0.05, sigma_max=10.0, final="sigma_min")
FIRST, LAST = (1.0, float(SIGMAS[0])), (1.0, float(SIGMAS[-1]))
PIXELS = RESIDUALS["pixels"]
INFINITE = float("inf")


def noise_of(count, seed=0, size=5):
    return SIGMAS[0] * torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def newton_of(problem, x, targets=None, held_out=8, batch_size=None, unknowns=None, **settings):
    targets = problem.solution(x, FIRST, LAST) if targets is None else targets
    batches = Batches(problem, x, held_out, batch_size)
    chosen = unknowns or Unknowns(4, column=True)
    return GaussNewton(batches, lambda batch: targets[batch.part], chosen, PIXELS, **settings)


def only_the_last_row_differs(table, other):
    """It makes no network call, so a fit finds it whatever becomes of calls beside the start's."""
    same = np.array_equal(table.sigmas, other.sigmas)
    same &= np.allclose(table.a[:-1], other.a[:-1], atol=1e-12) and np.allclose(table.b[:-1], other.b[:-1], atol=1e-12)
    return same and np.abs(table.b[-1] - other.b[-1]).max() > 1e-3


def rmse(problem, table, x):
    return float((ls.sample(problem, x, table) - problem.solution(x, FIRST, LAST)).square().mean().sqrt())


# Loss


def test_the_robust_mean_is_the_integral_of_its_weights():
    """d rho / d e = 1 / sqrt(1 + e / c²), rho(e) is about e for small e, and plain squares are its limit."""
    e, c2 = np.linspace(0, 50, 20001), 0.7
    weights = 1 / np.sqrt(1 + e / c2)
    integral = np.concatenate([[0], np.cumsum((weights[1:] + weights[:-1]) / 2 * np.diff(e))])
    found = np.array([robust_mean(np.array([value]), c2) for value in e[::400]])
    np.testing.assert_allclose(found, integral[::400], atol=1e-5)
    squared = np.array([1.0, 2.0, 9.0])
    assert robust_mean(squared, INFINITE) == 4.0
    assert robust_mean(np.array([1.0, INFINITE]), 0.7) == robust_mean(np.array([INFINITE]), INFINITE) == INFINITE
    assert robust_mean(squared, 1e9) == pytest.approx(4.0, rel=1e-6)
    assert robust_scale(squared) == 2.0
    assert robust_scale(squared, 3.0) == 6.0
    assert robust_scale(squared, 0.0) == robust_scale(np.array([0.0, 0.0, 1.0])) == INFINITE


# Derivatives


def ends_by_hand(problem, table, unknowns, theta, x):
    """Last states as a differentiable function of theta, written from the definitions."""
    ratio = table.sigmas / table.alphas
    logs = [torch.tensor(float(v), dtype=torch.float64) for v in np.log(ratio)]
    weights = [{j: torch.tensor(w, dtype=torch.float64) for j, w in row.outputs.items()} for row in table.rows]
    firsts = [torch.tensor(row.states.get(0, 0.0), dtype=torch.float64) for row in table.rows]
    gaps = np.abs(np.diff(np.log(ratio)))
    for one, value in zip(unknowns.all, theta, strict=True):
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
def test_difference_quotients_are_the_jacobian(monkeypatch, solver):
    """Of weights, levels and the column at once; with steps that are small in float64, to their first order."""
    monkeypatch.setattr(module, "_STEPS", dict.fromkeys(module._STEPS, 1e-6))
    problem, x = Mixture(), noise_of(10)
    unknowns = Unknowns(4, column=True)
    table = unknowns.prepared(ls.build(solver, SIGMAS))
    target = problem.solution(x, FIRST, LAST)
    newton = newton_of(problem, x, target, held_out=2)
    zero = torch.zeros(len(unknowns), dtype=torch.float64)
    assert unknowns.free(table).all()
    jacobian = torch.autograd.functional.jacobian(lambda t: ends_by_hand(problem, table, unknowns, t, x[:8]), zero)
    columns = jacobian.reshape(8 * 5, -1) / np.sqrt(5)
    left = (target[:8] - ls.sample(problem, x[:8], table)).reshape(-1) / np.sqrt(5)
    for c2 in (INFINITE, 1e-3):
        weight = 1 / (1 + left.view(8, 5).square().sum(1, keepdim=True) / c2).sqrt()
        weighted = columns * weight.expand(8, 5).reshape(-1, 1)
        equations = newton._equations(table, c2, newton.fitted)
        scale = np.sqrt(np.diag(equations.gram))
        gram, moment = (weighted.T @ columns).numpy(), (weighted.T @ left).numpy()
        np.testing.assert_allclose(equations.gram / np.outer(scale, scale), gram / np.outer(scale, scale), atol=1e-4)
        np.testing.assert_allclose(equations.moment / scale, moment / scale, atol=1e-4 * float(left.norm()))


def test_equations_of_several_batches_are_those_of_one():
    problem, x = Mixture(), noise_of(40)
    table = Unknowns(4, column=True).prepared(ls.build("ddim", SIGMAS))
    for c2 in (INFINITE, 1e-2):
        newton = newton_of(problem, x, held_out=8)
        whole = newton._equations(table, c2, newton.fitted)
        for size in (3, 7, 32):
            newton = newton_of(problem, x, held_out=8, batch_size=size)
            parts = newton._equations(table, c2, newton.fitted)
            np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(parts.moment, whole.moment, rtol=1e-9, atol=1e-12)
            assert parts.energy == pytest.approx(whole.energy, rel=1e-12)
            assert parts.count == whole.count == 32 * 5


def test_stacked_runs_give_the_same_equations():
    problem, x = Mixture(), noise_of(12)
    table = Unknowns(4, column=True).prepared(ls.build("ddim", SIGMAS))
    alone = newton_of(problem, x, held_out=8)
    stacked = newton_of(problem, x, held_out=8)
    stacked.batch_size = 1000
    gram = alone._equations(table, 1e-2, alone.fitted).gram
    np.testing.assert_allclose(stacked._equations(table, 1e-2, alone.fitted).gram, gram, rtol=1e-9, atol=1e-12)


# Samples that come in later


def test_a_moved_model_is_the_one_of_the_other_table_to_second_order(monkeypatch):
    """Half of the way, a quarter of what is missing; at the table itself, nothing is."""
    monkeypatch.setattr(module, "_STEPS", dict.fromkeys(module._STEPS, 1e-6))
    unknowns = Unknowns(4, column=True)
    table = unknowns.prepared(ls.build("unipc", SIGMAS))
    # What the linear residual leaves out of the gradient is J itself, where the residual is not 0: so it is made 0.
    newton = newton_of(Mixture(), noise_of(24), ls.sample(Mixture(), noise_of(24), table), unknowns=unknowns)
    model = newton._model(table, INFINITE, None)
    direction = np.random.default_rng(0).normal(size=len(unknowns))
    missing = []
    for size in (0.0, 1e-3, 5e-4):
        other = unknowns.moved(table, size * direction)
        moved = model.moved(unknowns.values(other))
        missing.append(np.linalg.norm(moved.moment - newton._model(other, INFINITE, None).equations.moment))
    assert missing[0] <= 1e-6 * missing[1]
    assert missing[1] / missing[2] == pytest.approx(4, rel=0.1)


def test_where_residuals_are_linear_samples_that_come_in_later_are_as_good_as_all_at_once():
    """One call and its weight alone: least squares, whichever samples came first, and whatever step was between."""
    x = noise_of(32)
    start = Unknowns(1, levels=False).prepared(ls.build("ddim", SIGMAS[[0, -1]]))
    output = Mixture()(x, float(SIGMAS[0]))
    target = start.a[1] * x + 0.7 * output + 0.01 * noise_of(32, seed=1) / SIGMAS[0]
    batches = Batches(Mixture(), x, 8, 8)

    def newton(numbers):
        unknowns = Unknowns(1, levels=False)
        return GaussNewton(batches, lambda b: target[b.part], unknowns, PIXELS, robust=0, fitted=numbers)

    few = newton([0]).fit(start, 1, damping=1e-12)
    later = newton([0, 1, 2]).fit(few.table, 1, damping=1e-12, known=few.model)
    whole = newton([0, 1, 2]).fit(start, 1, damping=1e-12)
    flat, left = output[:24].flatten(), (target - start.a[1] * x)[:24].flatten()
    wanted = float(flat @ left / (flat @ flat))
    assert later.iterations[-1].samples == 24
    assert few.model.numbers == (0,)
    assert later.model.numbers == (0, 1, 2)
    for fit in (later, whole):
        assert fit.table.b[1, 0] == pytest.approx(wanted, rel=1e-8)
    assert few.table.b[1, 0] != pytest.approx(wanted, rel=1e-4)


def test_known_samples_cost_their_trial_alone():
    """The Jacobian is made for the new half, and no table is measured twice."""
    x = noise_of(40)
    batches, target = Batches(Mixture(), x, 8, 8), Mixture().solution(x, FIRST, LAST)

    def newton(numbers):
        return GaussNewton(batches, lambda b: target[b.part], Unknowns(4, column=True), PIXELS, fitted=numbers)

    few = newton([0, 1]).fit(ls.build("ddim", SIGMAS), 1)
    before = batches.calls
    newton([0, 1, 2, 3]).fit(few.table, 1, known=few.model)
    # Of 16 new samples: the start, the run itself and its 22 calls beside (row k: k weights, level, column; 4 - k
    # calls each); of 32: one trial; of 8 held out: that trial.
    beside = sum((k + 2) * (4 - k) for k in range(1, 4))
    assert beside == 3 * 3 + 4 * 2 + 5
    assert batches.calls - before == 16 * (4 + 4 + beside) + 32 * 4 + 8 * 4
    at = batches.calls
    newton([0]).errors(few.table, [0])
    assert batches.calls == at


# Where the answer is known


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
    newton = newton_of(problem, noise_of(40), unknowns=Unknowns(4, levels=False), robust=0.0)
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
        newton = newton_of(problem, x, held_out=400, unknowns=Unknowns(1, levels=False), robust=0.0, ridge=ridge)
        expected = (best + ridge * table.b[1, 0]) / (1 + ridge)
        assert newton.fit(table, 20).table.b[1, 0] == pytest.approx(expected, abs=2e-3)
    assert abs(best - table.b[1, 0]) > 1e-2


def test_the_ridge_pulls_to_its_centre():
    problem, base, other = Mixture(), ls.build("ddim", SIGMAS), ls.build("unipc", SIGMAS)
    unknowns = Unknowns(4)
    center = unknowns.values(other.unrolled())
    found = {}
    for ridge in (1e-3, 1e3):
        newton = newton_of(problem, noise_of(40), unknowns=unknowns, robust=0.0, ridge=ridge, center=center)
        table = base
        for _ in range(4):
            equations = newton._equations(unknowns.prepared(table), INFINITE, newton.fitted)
            equations = equations.pulled(ridge, unknowns.values(unknowns.prepared(table)) - center)
            table = unknowns.moved(unknowns.prepared(table), equations.solve(0.0))
        found[ridge] = float(np.abs(unknowns.values(table) - center).max())
    assert found[1e3] < 1e-2
    assert found[1e-3] > 10 * found[1e3]


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


# No harm


@pytest.mark.parametrize("robust", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc"])
def test_no_accepted_step_raises_the_objective(solver, robust):
    """Each is compared on the scale of the loss that it was taken with."""
    problem, x, table = Mixture(), noise_of(48), ls.build(solver, SIGMAS)
    newton = newton_of(problem, x, robust=robust)
    for _ in range(4):
        start = newton.unknowns.prepared(table)
        before = newton.errors(start, newton.fitted)[:, 0]
        fit = newton.fit(table, 1)
        if len(fit.iterations) == 1:
            assert fit.stopped == "no step lowers the objective"
            break
        first, second = fit.iterations
        c2 = robust_scale(before, robust)
        assert first.objective == pytest.approx(robust_mean(before, c2), rel=1e-9)
        solved = newton.errors(newton.solved(start, c2, newton.unknowns.values(start)), newton.fitted)[:, 0]
        assert robust_mean(solved, c2) <= (1 + 1e-9) * first.objective
        c2 = robust_scale(solved, robust)
        assert second.objective < robust_mean(solved, c2)
        if second.held_out < first.held_out:
            after = newton.errors(fit.table, newton.fitted)[:, 0]
            assert second.objective == pytest.approx(robust_mean(after, c2), rel=1e-9)
        table = fit.table
    assert table.distance(ls.build(solver, SIGMAS)) > 1e-3


def test_no_iterate_is_used_that_held_out_samples_are_sure_is_worse():
    """Held-out targets from another world: every step away from the start is worse there, so the start stays."""
    problem, x = Mixture(), noise_of(24)
    targets = problem.solution(x, FIRST, LAST)
    base = ls.build("ddim", SIGMAS).unrolled()
    targets[16:] = ls.sample(problem, x[16:], base)
    fit = newton_of(problem, x, targets).fit(base, 8)
    assert fit.stopped == "held-out samples gain no more"
    assert len(fit.iterations) == 3
    assert fit.table.distance(base) == 0.0


def test_a_later_iterate_gives_way_only_to_what_is_better_by_more_than_a_standard_error():
    """Held-out losses: 3 of the earlier table; of the later one, that and a difference whose standard error is 1/2."""
    unit = np.array([0.0, 2.0, 0.0, 2.0])  # mean 1, population deviation 1, four samples
    squared: dict[str, np.ndarray] = {}
    newton = SimpleNamespace(held_out=[1], errors=lambda table, numbers: np.stack([squared[table]] * 2, 1))

    def kept(later, most=np.inf):
        squared.update(before=np.full(4, 3.0), later=3.0 + later)
        return GaussNewton._better(newton, "later", "before", np.inf, most)  # plain squares

    assert kept(-unit)
    assert kept(0 * unit)
    assert not kept(unit)  # worse by two standard errors
    assert kept(unit - 0.51)
    assert not kept(unit - 0.49)
    assert not kept(np.array([0.0, 0.0, 0.0, np.inf]))
    assert not kept(-unit + 1.5, most=np.sqrt(3.0))  # only the earlier one is within the bound
    assert kept(0 * unit - 1, most=np.sqrt(2.0))


def test_an_iterate_that_single_samples_make_worse_than_the_bound_is_passed_over():
    """Unless all are: what is left to choose from must not be empty."""
    problem, x = Mixture(), noise_of(64)
    start = ls.build("ddim", SIGMAS)
    newton = newton_of(problem, x, held_out=32)
    free = newton.fit(start, 3)
    steps = [line.held_out_rmse for line in free.iterations]
    assert len(steps) > 2
    assert free.table.distance(newton.unknowns.prepared(start)) > 0
    measured = newton.errors

    def spoilt(table, numbers):
        """As it is, but for one sample that the last iterate leaves far off, which its robust residual hardly shows."""
        found = measured(table, numbers).copy()
        if numbers == newton.held_out and table.distance(free.table) == 0:
            found[0, 1] += 2 * len(found) * steps[0] ** 2
        return found

    newton.errors = spoilt
    kept = newton.fit(start, 3, most=1.01 * steps[0])
    assert kept.table.distance(free.table) > 0
    assert float(np.sqrt(measured(kept.table, newton.held_out)[:, 1].mean())) < steps[0]
    for bound in (0.0, float("inf")):
        assert newton.fit(start, 3, most=bound).table.distance(free.table) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_runs_beside_the_table_that_are_not_finite_are_survived(value):
    """The network knows the base's own levels alone; whatever is moved, it answers with what no sum survives."""
    table = ls.build("ddim", SIGMAS)
    known = set(table.sigmas.tolist())

    def brittle(x, sigma):
        return Mixture()(x, sigma) if sigma in known else torch.full_like(x, value)

    x = noise_of(16).float()
    targets = Mixture().solution(x, FIRST, LAST)
    newton = newton_of(brittle, x, targets, unknowns=Unknowns(4, column=True))
    fit = newton.fit(table, 4)
    assert only_the_last_row_differs(fit.table, table)
    assert np.isfinite([line.held_out for line in fit.iterations]).all()
    assert fit.stopped in ("a step beside the table is not finite", "no step lowers the objective")


def test_a_step_that_overflows_on_held_out_samples_alone_is_not_taken():
    """Only the fitted samples may leave the base's states; a held-out one that does becomes infinite."""
    table, x = ls.build("ddim", SIGMAS), noise_of(24).clone()
    x[16:, 0] = 40.0
    own = {}
    ls.sample(Mixture(), x[16:], table, callback=lambda k, s, state, d: own.update({s: state.clone()}))

    def brittle(x, sigma):
        out, odd = Mixture()(x, sigma), x.shape == own[SIGMAS[0]].shape and sigma < SIGMAS[0]
        return out * torch.where((x - own[sigma]).abs() > 1e-9, INFINITE, 1.0) if odd else out

    targets = Mixture().solution(x, FIRST, LAST)
    newton = newton_of(brittle, x, targets, unknowns=Unknowns(4, levels=False), batch_size=16)
    fit = newton.fit(table, 4)
    assert fit.stopped == "a step is not finite on held-out samples"
    assert only_the_last_row_differs(fit.table, table)
    assert len(fit.iterations) == 1


def test_a_start_that_is_not_finite_is_refused():
    table = ls.build("ddim", SIGMAS)
    x = noise_of(16)
    for broken in (slice(0, 1), slice(12, 13)):
        bad = x.clone()
        bad[broken] = INFINITE
        newton = newton_of(Mixture(), bad, Mixture().solution(x, FIRST, LAST))
        with pytest.raises(ls.InputError, match="ddim does not end in finite samples at 4 calls: choose another start"):
            newton.fit(table, 2)


@pytest.mark.parametrize("column", [False, True])
def test_directions_that_repeat_are_harmless(column):
    """Data that are one point: all outputs are the same, only the sum of a row's weights counts, and levels do not."""
    problem, x = Point(), noise_of(24)
    base = ls.build("ddim", SIGMAS).unrolled()
    wrong = tuple(Row(row.states, {j: 0.8 * w for j, w in row.outputs.items()}) for row in base.rows)
    table = replace(base, rows=wrong, exact=False)
    newton = newton_of(problem, x, unknowns=Unknowns(4, column=column), robust=0.0)
    equations = newton._equations(table, INFINITE, newton.fitted)
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
        fit = newton_of(problem, x, targets, unknowns=Unknowns(3, column=True)).fit(table, 6)
        assert fit.iterations[-1].rmse < 0.5 * fit.iterations[0].rmse


def test_perfect_targets_end_the_fit():
    """A start that is already there has no median error, and nothing to gain; what was tried damps no later step."""
    problem, x, table = Mixture(), noise_of(16), ls.build("ddim", SIGMAS)
    own = ls.sample(problem, x, Unknowns(4).prepared(table))
    fit = newton_of(problem, x, own, unknowns=Unknowns(4)).fit(table, 4)
    assert fit.stopped == "no step lowers the objective"
    assert fit.damping == FIRST_DAMPING
    assert fit.table.distance(table) < 1e-12


# Stability


def sensitivity(table, slope):
    """Of the last state to an error of each output, for D = slope x: errors go through the calls behind them."""
    k, moved = table.nfe, np.zeros((table.nfe + 1, table.nfe))
    for row in range(1, k + 1):
        for j in range(row):
            moved[row] += table.b[row, j] * (slope * moved[j] + np.eye(k)[j])
    return float(np.linalg.norm(moved[k]))


@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc", "heun"])
def test_the_gain_of_a_linear_network_is_its_closed_form(solver):
    table = ls.build(solver, SIGMAS)
    x = SIGMAS[0] * torch.randn(20, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for slope in (0.0, 0.3, 0.9, -0.5):
        found = np.sqrt(gain(lambda x, sigma, s=slope: s * x, x, table) / len(x))
        assert found == pytest.approx(sensitivity(table, slope), rel=0.02)


def test_the_gain_of_a_network_that_does_not_look_is_the_norm_of_the_last_row():
    x = noise_of(20, size=5000)
    for solver in ("ddim", "ipndm", "unipc"):
        table = ls.build(solver, SIGMAS)
        norm = float(np.linalg.norm(table.b[-1]))
        assert np.sqrt(gain(Point(), x, table) / len(x)) == pytest.approx(norm, rel=0.02)
        assert norm <= largest_weights(table) + 1e-12


def test_the_gain_is_that_of_its_own_errors_to_the_bit():
    """One call, so one error: the last state is off by b times what the generator gives."""
    table, x = ls.build("ddim", SIGMAS[[0, -1]]), noise_of(3)
    error = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    expected = float((table.b[1, 0] * error.double()).square().mean(1).sum())
    assert gain(Point(), x, table, seed=7) == pytest.approx(expected, rel=1e-9)
    assert gain(Point(), x, table, seed=8) != pytest.approx(expected, rel=1e-3)
    assert 0 < EPSILON < 0.01


def test_large_weights_of_opposite_signs_have_a_large_gain():
    base = ls.build("ddim", SIGMAS).unrolled()
    last = base.rows[-1]
    odd = Row(last.states, {**last.outputs, 0: last.outputs[0] + 50, 1: last.outputs[1] - 50})
    table = replace(base, rows=(*base.rows[:-1], odd), exact=False)
    x = noise_of(8)
    assert float((ls.sample(Point(), x, table) - ls.sample(Point(), x, base)).abs().max()) < 1e-9
    found = np.sqrt(gain(Point(), x, table) / 8)
    assert found == pytest.approx(50 * np.sqrt(2), rel=0.3)
    assert largest_weights(table) > 100 > 2 > largest_weights(base)


# Residuals


def test_every_residual_measures_pixels_as_mean_squared_errors():
    x, y = torch.randn(2, 5, 3, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for residual in RESIDUALS.values():
        pixels = (residual(x) - residual(y))[:, : x[0].numel()]
        torch.testing.assert_close(pixels.square().sum(1), (x - y).square().flatten(1).mean(1))


@pytest.mark.parametrize("name", sorted(set(RESIDUALS) - {"pixels"}))
def test_what_is_beside_pixels_weighs_as_much_as_they_do_once_balanced(name):
    x, y = torch.randn(2, 5, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    residual = RESIDUALS[name].balanced(x, y)
    squared = (residual(x) - residual(y)).square()
    assert squared[:, :256].sum() == pytest.approx(float(squared[:, 256:].sum()))


def beside(name, samples):
    found = RESIDUALS[name].beside
    assert found is not None
    return found(samples)


def test_gradients_weigh_frequencies_by_their_squares():
    """Differences of a wave of frequency w along a row have 2 sin(w / 2) times its amplitude."""
    n = torch.arange(64, dtype=torch.float64)
    for waves in (2, 4, 8):
        picture = torch.sin(2 * torch.pi * waves * n / 64).expand(1, 1, 64, 64)
        across = beside("gradients", picture)[0, : 63 * 63].reshape(63, 63) * 63
        w = 2 * torch.pi * waves / 64
        wanted = 2 * np.sin(w / 2) * torch.cos(w * (n[:63] + 0.5))
        torch.testing.assert_close(across[0], wanted)
        assert across.std(0).max() < 1e-12
        assert len(beside("gradients", picture)[0]) == 2 * 63 * 63


def test_gradients_are_linear_and_see_no_level():
    x, y = torch.randn(2, 3, 2, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(beside("gradients", x + 2 * y + 5), beside("gradients", x) + 2 * beside("gradients", y))


def test_moments_are_standard_deviations_of_windows():
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = beside("moments", x)
    for size, part in ((2, found[:, :64]), (4, found[:, 64:80]), (8, found[:, 80:])):
        windows = x.unfold(2, size, size).unfold(3, size, size).flatten(4)
        wanted = (windows.var(-1, correction=0) + 1e-3).sqrt().flatten(1) / (16 / size)
        torch.testing.assert_close(part, wanted)
    torch.testing.assert_close(beside("moments", 7 - x), found)  # as much contrast, wherever it is
    flat = 300 + 1e-3 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    assert beside("moments", flat).isfinite().all()  # squares are known to 0.01 there, in single precision


def test_edges_see_how_strong_a_gradient_is_and_not_its_sign():
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    edges = RESIDUALS["edges"].beside
    assert edges is not None
    torch.testing.assert_close(edges(-x), edges(x))
    assert (edges(2 * x) > edges(x)).all()
    flat = torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(edges(flat), edges(3 * flat))


@pytest.mark.parametrize("name", sorted(set(RESIDUALS) - {"pixels"}))
@pytest.mark.parametrize("shape", [(2, 16), (2, 3, 16, 11)])
def test_what_is_beside_pixels_needs_pictures(name, shape):
    with pytest.raises(ls.InputError, match=f"residual '{name}' .* use residual='pixels'"):
        RESIDUALS[name](torch.zeros(shape))
    assert RESIDUALS[name](torch.zeros(2, 3, 12, 12)).isfinite().all()
