"""No step of a fit does harm: not to the objective, not to held-out samples, and not where numbers overflow."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import FIRST, INFINITE, LAST, SIGMAS, newton_of
from toy_fits import noise_of as toy_noise

import longstride as ls
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.prior import Ridge
from longstride.calibration.loss import Loss
from longstride.parameters import Parameters

noise_of = partial(toy_noise, size=5)


def only_the_last_row_differs(table, other):
    """It makes no network call, so a fit finds it whatever becomes of calls beside the start's."""
    same = np.array_equal(table.sigmas, other.sigmas)
    same &= np.allclose(table.a[:-1], other.a[:-1], atol=1e-12) and np.allclose(table.b[:-1], other.b[:-1], atol=1e-12)
    return same and np.abs(table.b[-1] - other.b[-1]).max() > 1e-3


@pytest.mark.parametrize("robust", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc"])
def test_no_accepted_step_raises_the_objective(solver, robust):
    """Each is compared on the scale of the loss that it was taken with."""
    problem, x, table = Mixture(), noise_of(48), ls.build(solver, SIGMAS)
    newton = newton_of(problem, x, robust=robust)
    for _ in range(4):
        start = newton.parameters.prepared(table)
        before = newton.errors(start, newton.fitted)[:, 0]
        fit = newton.fit(table, 1)
        if len(fit.iterations) == 1:
            assert fit.stopped == "no step lowers the objective"
            break
        first, second = fit.iterations
        loss = Loss.of(before, robust)
        assert first.objective == pytest.approx(loss.mean(before), rel=1e-9)
        solved = newton.errors(
            newton.solved(start, loss, Ridge.of(start, newton.parameters, newton.ridge)), newton.fitted
        )[:, 0]
        assert loss.mean(solved) <= (1 + 1e-9) * first.objective
        loss = Loss.of(solved, robust)
        assert second.objective < loss.mean(solved)
        if second.held_out < first.held_out:
            after = newton.errors(fit.table, newton.fitted)[:, 0]
            assert second.objective == pytest.approx(loss.mean(after), rel=1e-9)
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
        return GaussNewton.better(newton, "later", "before", Loss(), most)  # plain squares

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
    assert free.table.distance(newton.parameters.prepared(start)) > 0
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


@pytest.mark.parametrize("rank", [None, 2, 50])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_runs_beside_the_table_that_are_not_finite_are_survived(value, rank):
    """The network knows the base's own levels alone; whatever is moved, it answers with what no sum survives."""
    table = ls.build("ddim", SIGMAS)
    known = set(table.sigmas.tolist())

    def brittle(x, sigma):
        return Mixture()(x, sigma) if sigma in known else torch.full_like(x, value)

    x = noise_of(16).float()
    targets = Mixture().solution(x, FIRST, LAST)
    newton = newton_of(brittle, x, targets, parameters=Parameters(4, column=True), rank=rank)
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
    newton = newton_of(brittle, x, targets, parameters=Parameters(4, levels=False), unit=16)
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
