"""The last row is solved for: errors under any last row are known, the best one is found, and neither costs a call."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SIGMAS, exact
from toy_fits import newton_of as toy_newton
from toy_fits import noise_of as toy_noise

import longstride as ls
from longstride.calibration.endpoint.last_row import LastRows, Terms
from longstride.calibration.endpoint.prior import Ridge
from longstride.calibration.loss import Loss
from longstride.calibration.reference.solve import squared_errors
from longstride.parameters import Parameters
from longstride.table import Row

noise_of = partial(toy_noise, size=5)


FREE = {
    "everything": Parameters(4, column=True),
    "weights": Parameters(4, levels=False),
    "window": Parameters(4, column=True, window=2),
}


def newton_of(parameters, x, **settings):
    return toy_newton(Mixture(), x, held_out=16, parameters=parameters, **settings)


def with_last_row(table, seed):
    """Other weights of what the last row weighs, and of all outputs where it weighs the first state."""
    rng, row = np.random.default_rng(seed), table.rows[-1]
    outputs = range(4) if 0 in row.states else row.outputs
    states = {i: w * float(np.exp(0.1 * rng.normal())) for i, w in row.states.items()}
    last = Row(states, {j: row.outputs.get(j, 0.0) + 0.3 * float(rng.normal()) for j in outputs})
    return replace(table, rows=(*table.rows[:-1], last), exact=False)


@pytest.mark.parametrize("free", list(FREE))
@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc"])
def test_one_run_gives_the_errors_under_every_last_row(solver, free):
    parameters, x = FREE[free], noise_of(40)
    newton = newton_of(parameters, x)
    table = parameters.prepared(ls.build(solver, SIGMAS))
    newton.errors(table, newton.fitted)
    calls, goal = newton.samples.ledger.calls, exact(Mixture(), x)[:24]
    assert calls == 24 * 4
    for seed in range(4):
        other = with_last_row(table, seed)
        found = newton.errors(other, newton.fitted)
        expected = squared_errors(ls.sample(Mixture(), x[:24], other), goal)
        assert expected.mean() > 1e-3
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)
        np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert newton.samples.ledger.calls == calls


@pytest.mark.parametrize("free", list(FREE))
@pytest.mark.parametrize("loss", [Loss(), Loss(1e-3)])
@pytest.mark.parametrize("solver", ["ddim", "ipndm"])
def test_the_last_row_that_is_found_is_the_best(solver, free, loss):
    """No free weight of it can move without loss, and it costs no call."""
    parameters = FREE[free]
    newton = newton_of(parameters, noise_of(40))
    table = with_last_row(parameters.prepared(ls.build(solver, SIGMAS)), 0)
    before = loss.mean(newton.errors(table, newton.fitted)[:, 0])
    calls = newton.samples.ledger.calls
    solved = newton.solved(table, loss, Ridge.of(table, parameters, 0.0))
    terms = Terms.of(solved, parameters)
    at, may = terms.weights(solved), terms.free(solved, parameters)

    def objective(weights):
        return loss.mean(newton.errors(terms.table(solved, weights), newton.fitted)[:, 0])

    best = objective(at)
    assert best < 0.5 * before
    assert newton.samples.ledger.calls == calls
    column = free != "weights" and 0 in table.rows[-1].states
    assert may.sum() == len([one for one in parameters.last if one.kind == "weight"]) + column
    for step in np.eye(len(at))[may]:
        there, back = objective(at + 1e-4 * step), objective(at - 1e-4 * step)
        assert there > best
        assert back > best
    for mine, theirs in zip(solved.rows[:-1], table.rows[:-1], strict=True):
        assert mine == theirs
    np.testing.assert_array_equal(solved.sigmas, table.sigmas)


def test_plain_squares_are_one_division():
    newton, x = newton_of(FREE["weights"], noise_of(40)), noise_of(40)[:24]
    table = FREE["weights"].prepared(ls.build("ipndm", SIGMAS))
    seen = []
    ls.sample(Mixture(), x, table, callback=lambda k, s, state, d: seen.append(d.flatten()))
    rest = (exact(Mixture(), x) - table.a[-1] * x).flatten()
    expected = torch.linalg.lstsq(torch.stack(seen, 1), rest[:, None]).solution[:, 0]
    solved = newton.solved(table, Loss(), Ridge.of(table, FREE["weights"], 0.0))
    np.testing.assert_allclose(solved.b[-1], expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("ridge", [1e-2, 1.0, 1e6])
def test_a_ridge_pulls_the_last_row_to_its_centre(ridge):
    """Each weight relative to its own energy; at the optimum pull and residual balance."""
    parameters = FREE["weights"]
    newton = newton_of(parameters, noise_of(40))
    table, other = (parameters.prepared(ls.build(name, SIGMAS)) for name in ("ddim", "ipndm"))
    solved = newton.solved(table, Loss(), Ridge.of(other, parameters, ridge))
    rows = newton.last_rows(solved, newton.fitted)
    gram, moment = rows.gram.sum(0)[1:, 1:], rows.moment.sum(0)[1:]
    away = solved.b[-1] - other.b[-1]
    np.testing.assert_allclose(moment, ridge * np.diag(gram) * away, atol=1e-6 * ridge * np.diag(gram).max())
    assert (np.abs(away).max() < 1e-5) == (ridge > 1)


def test_a_first_state_never_changes_its_sign():
    """Targets from which the first state is taken away altogether, and more: its weight would have to be negative."""
    parameters, x = FREE["everything"], noise_of(40)
    table = parameters.prepared(ls.build("ipndm", SIGMAS))
    targets = ls.sample(Mixture(), x, table) - 2 * float(table.a[-1]) * x
    newton = newton_of(parameters, x, targets=targets)
    solved = newton.solved(table, Loss(), Ridge.of(table, parameters, 0.0))
    assert solved.a[-1] == table.a[-1]
    assert np.abs(solved.b[-1] - table.b[-1]).max() > 0
    nearer = ls.sample(Mixture(), x, table) - 0.2 * float(table.a[-1]) * x
    newton = newton_of(parameters, x, targets=nearer)
    solved = newton.solved(table, Loss(), Ridge.of(table, parameters, 0.0))
    assert solved.a[-1] == pytest.approx(0.8 * table.a[-1], rel=1e-6)


def test_what_is_not_finite_stays_as_it_is():
    x = noise_of(40).clone()
    x[3, 0] = float("inf")
    newton = newton_of(FREE["everything"], x)
    table = FREE["everything"].prepared(ls.build("ddim", SIGMAS))
    assert not np.isfinite(newton.errors(table, newton.fitted)[3]).any()
    assert newton.solved(table, Loss(1.0), Ridge.of(table, FREE["everything"], 0.0)) is table
    moved = newton.errors(with_last_row(table, 0), newton.fitted)
    assert np.isinf(moved[3]).all()
    assert np.isfinite(np.delete(moved, 3, axis=0)).all()


def test_packed_rows_come_back():
    rng = np.random.default_rng(0)
    rows = LastRows(rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2)), rng.normal(size=3) ** 2)
    back = LastRows.unpack(rows.pack(), 2)
    for mine, theirs in ((rows.gram, back.gram), (rows.moment, back.moment), (rows.squared, back.squared)):
        np.testing.assert_array_equal(mine, theirs)
