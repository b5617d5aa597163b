"""Samples that come in later: the model of earlier ones goes on for them, and costs no call."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from problems import Mixture
from toy_fits import PIXELS, SIGMAS, newton_of, samples_of
from toy_fits import noise_of as toy_noise

import longstride as ls
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.loss import Loss
from longstride.parameters import Parameters

noise_of = partial(toy_noise, size=5)


def test_a_moved_model_is_the_one_of_the_other_table_to_second_order():
    """Half of the way, a quarter of what is missing; at the table itself, nothing is."""
    parameters = Parameters(4, column=True)
    parameters.steps = np.full(len(parameters), 1e-6)
    table = parameters.prepared(ls.build("unipc", SIGMAS))
    # What the linear residual leaves out of the gradient is J itself, where the residual is not 0: so it is made 0.
    newton = newton_of(Mixture(), noise_of(24), ls.sample(Mixture(), noise_of(24), table), parameters=parameters)
    model = newton.quadratic(table, Loss(), None)
    direction = np.random.default_rng(0).normal(size=len(parameters))
    missing = []
    for size in (0.0, 1e-3, 5e-4):
        other = parameters.moved(table, size * direction)
        moved = model.moved(parameters.values(other))
        missing.append(np.linalg.norm(moved.moment - newton.quadratic(other, Loss(), None).equations.moment))
    assert missing[0] <= 1e-6 * missing[1]
    assert missing[1] / missing[2] == pytest.approx(4, rel=0.1)


def test_where_residuals_are_linear_samples_that_come_in_later_are_as_good_as_all_at_once():
    """One call and its weight alone: least squares, whichever samples came first, and whatever step was between."""
    x = noise_of(32)
    start = Parameters(1, levels=False).prepared(ls.build("ddim", SIGMAS[[0, -1]]))
    output = Mixture()(x, float(SIGMAS[0]))
    target = start.a[1] * x + 0.7 * output + 0.01 * noise_of(32, seed=1) / SIGMAS[0]
    samples = samples_of(Mixture(), x, target)

    def newton(numbers):
        return GaussNewton(samples, Parameters(1, levels=False), PIXELS, robust=0, fitted=numbers)

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
    samples = samples_of(Mixture(), x)

    def newton(numbers):
        return GaussNewton(samples, Parameters(4, column=True), PIXELS, fitted=numbers)

    few = newton([0, 1]).fit(ls.build("ddim", SIGMAS), 1)
    before = samples.ledger.calls
    newton([0, 1, 2, 3]).fit(few.table, 1, known=few.model)
    # Of 16 new samples: the start, the run itself and its 22 calls beside (row k: k weights, level, column; 4 - k
    # calls each); of 32: one trial; of 8 held out: that trial.
    beside = sum((k + 2) * (4 - k) for k in range(1, 4))
    assert beside == 3 * 3 + 4 * 2 + 5
    assert samples.ledger.calls - before == 16 * (4 + 4 + beside) + 32 * 4 + 8 * 4
    at = samples.ledger.calls
    newton([0]).errors(few.table, [0])
    assert samples.ledger.calls == at


def test_a_fit_in_units_of_scales_is_a_weighted_fit():
    """One call and its weight alone: weighted least squares. A common factor of all scales changes nothing."""
    x = noise_of(32)
    start = Parameters(1, levels=False).prepared(ls.build("ddim", SIGMAS[[0, -1]]))
    output = Mixture()(x, float(SIGMAS[0]))
    target = start.a[1] * x + 0.7 * output + 0.05 * noise_of(32, seed=1) / SIGMAS[0]
    samples, scales = samples_of(Mixture(), x, target), np.geomspace(0.1, 25.0, 32)

    def fitted(scales, robust=0.0, residual=PIXELS):
        newton = GaussNewton(samples, Parameters(1, levels=False), residual, robust=robust, scales=scales)
        return newton.fit(start, 1, damping=1e-12).table.b[1, 0]

    out, left = output[:24], (target - start.a[1] * x)[:24]
    weights = 1 / scales[:24, None]
    wanted = float((out * left * weights).sum() / (out.square() * weights).sum())
    assert fitted(scales) == pytest.approx(wanted, rel=1e-8)
    assert fitted(None) != pytest.approx(wanted, rel=1e-4)
    assert fitted(8 * scales, 1.0) == pytest.approx(fitted(scales, 1.0), rel=1e-8)
    beside = Residual(lambda x: x)  # the same residual twice: the step is that of the normal equations alone
    assert fitted(scales, residual=beside) == pytest.approx(wanted, rel=1e-6)
