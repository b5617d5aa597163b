"""Hard samples of a pool: which they are, what they count, and what a fit and a guard learn from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import INFINITE, PIXELS, SIGMAS, noise_of, samples_of
from toy_guards import BASE, TABLE, samples_with, unlucky_of

import longstride as ls
from longstride.calibration.endpoint.fits import Fit
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.last_row import LastRows, Terms
from longstride.calibration.endpoint.taught import TAUGHT, taught
from longstride.calibration.fresh import fresh
from longstride.calibration.loss import Loss, relative_scales
from longstride.calibration.mining import hard_samples, mined, runs
from longstride.calibration.reference.solve import squared_errors
from longstride.parameters import Parameters


@pytest.fixture(scope="module")
def found():
    """A pool of 320 samples, of which the table loses one in 32; and the samples that it is of."""
    samples = samples_with(unlucky_of(64))
    return samples, mined(samples, TABLE, BASE, "test", 320, 1 / 16)


def test_runs_tell_how_far_two_samples_are_apart_and_their_errors():
    samples = samples_with(unlucky_of(24))
    told = runs(samples, samples.units.all, TABLE, BASE)
    ends = [ls.sample(samples.network, samples.noise, one) for one in (TABLE, BASE)]
    np.testing.assert_allclose(told.apart, squared_errors(*ends), rtol=1e-12)
    np.testing.assert_allclose(told.squared, squared_errors(ends[0], samples.reference.samples), rtol=1e-12)
    np.testing.assert_allclose(told.base, squared_errors(ends[1], samples.reference.samples), rtol=1e-12)
    unknown = replace(samples, reference=None).kept(None)
    again = runs(unknown, unknown.units.all, TABLE, BASE)
    np.testing.assert_array_equal(again.apart, told.apart)
    assert np.isnan(again.squared).all()


def test_lost_samples_are_hard_and_the_others_are_less_far_apart(found):
    samples, pool = found
    many = fresh(samples, "test", 320)
    apart = runs(many, many.units.all, TABLE, BASE).apart
    assert (len(pool.hard), len(pool.others), pool.share) == (20, 300, 1 / 16)
    np.testing.assert_array_equal(np.sort(pool.runs.apart), np.sort(apart)[-20:])
    assert pool.cut == np.sort(apart)[-20]
    assert (pool.places % 32 == 5).sum() == 320 / 32  # all that are lost, by their conditions
    lost = pool.runs.squared > 16 * pool.runs.base
    assert lost[(pool.places % 32 == 5).numpy()].all()


def test_the_calls_of_a_pool_are_counted():
    """Two runs of all; of the hard samples the reference, its check on eight, and two runs."""
    samples = samples_with(unlucky_of(64))
    mined(samples, TABLE, BASE, "test", 320, 1 / 16)
    assert samples.total_calls() == 2 * 4 * 320 + 20 * (32 + 2 * 4) + 8 * 16


def test_either_kind_counts_as_much_as_its_share(found):
    _, pool = found
    apart = np.array([0.5, 0.9, 2.0, 0.1, 0.2]) * pool.cut
    own, hard = pool.weights(apart)
    assert own.sum() + hard.sum() == pytest.approx(5)
    assert own[2] + hard.sum() == pytest.approx(5 / 16)
    assert own[2] == hard[0] > 0
    assert len(set(own[[0, 1, 3, 4]])) == 1
    none, alone = pool.weights(0 * apart)
    lost = pool.runs.squared > 16 * pool.runs.base
    assert (alone * lost).sum() / 5 == pytest.approx(lost.sum() / 320)
    for few in (none, pool.weights(apart + 9 * pool.cut)[0]):
        np.testing.assert_allclose(few, 15 / 16)


@pytest.mark.parametrize(("count", "part", "hard"), [(1024, 0.0625, 64), (10, 0.0625, 1), (40, 0.5, 20)])
def test_at_least_one_sample_is_hard(count, part, hard):
    assert hard_samples(count, part) == hard


# Weights


@pytest.mark.parametrize("c2", [INFINITE, 1e-3])
def test_a_sample_of_weight_two_is_two_samples(c2):
    """In the equations of a step, and in the best last row."""
    x = noise_of(24)
    twice = torch.cat([x[:16], x[:8], x[16:]])
    one, two = (samples_of(Mixture(), noise) for noise in (x, twice))
    weights, parameters, loss = np.r_[np.full(8, 2.0), np.ones(16)], Parameters(4), Loss(c2)
    table = parameters.prepared(BASE)
    weighted = GaussNewton(one, parameters, PIXELS, weights=weights)
    plain = GaussNewton(two, parameters, PIXELS)
    told, wanted = (newton.equations(table, loss, newton.fitted) for newton in (weighted, plain))
    np.testing.assert_allclose(told.gram, wanted.gram, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(told.moment, wanted.moment, rtol=1e-10, atol=1e-18)
    terms = Terms.of(table, parameters)
    rows = [LastRows.measured(s.network, s.noise, table, terms, s.reference.samples) for s in (one, two)]
    free = terms.free(table, parameters)
    best = rows[0].best(loss, free, weights=weights), rows[1].best(loss, free)
    np.testing.assert_allclose(*best, rtol=1e-9)
    errors = rows[0].squared
    assert loss.mean(errors, weights) == pytest.approx(loss.mean(rows[1].squared), rel=1e-12)


def test_units_of_errors_are_those_of_the_median_of_all_samples():
    """Hard samples, of little weight, hardly move it; with equal weights it is the plain median."""
    base, weights = np.r_[np.linspace(1, 2, 101), np.full(50, 99.0)], np.r_[np.ones(101), np.full(50, 1e-9)]
    np.testing.assert_allclose(relative_scales(base, 0.1, weights)[:101], base[:101] / 1.5, rtol=2e-3)
    np.testing.assert_allclose(relative_scales(base, 0.1, 0 * base + 3), relative_scales(base, 0.1), rtol=1e-12)
    assert Loss.of(base, 2.0, 0 * base + 3).c2 == pytest.approx(Loss.of(base, 2.0).c2)


# The fit


def taught_on(samples, **options):
    asked = {"count": 64, "part": 1 / 8, "robust": 8.0, "ridge": 1e-6, "rank": None, "floor": 0.1} | options
    table = Parameters(4).prepared(ls.build("dpmpp_2m", SIGMAS))
    fit = Fit(table, (), "")
    return table, taught(samples, Parameters(4), PIXELS, BASE, fit, say=lambda: None, **asked)


def test_steps_on_hard_samples_see_these_and_the_fitted_samples():
    samples = samples_of(Mixture(), noise_of(32), steps=32)
    table, fit = taught_on(samples)
    assert fit.table.distance(table) > 0
    assert [line.samples for line in fit.iterations] == [24 + 8] * TAUGHT
    assert fit.iterations[1].objective < fit.iterations[0].objective


def test_a_fit_that_is_not_finite_stays_as_it_is():
    samples = samples_of(Mixture(), noise_of(32), steps=32)
    wrong = replace(samples, reference=replace(samples.reference, samples=samples.reference.samples * INFINITE))
    table, fit = taught_on(wrong)
    assert fit.table is table


def test_a_calibration_learns_from_hard_samples_and_goes_on_after_a_kill(tmp_path):
    x, base = noise_of(64), ls.build("ddim", SIGMAS)
    options = {"reference_steps": 32, "scouts": 1, "guard_share": 0.05, "guard_added": 0.5}
    first = ls.calibrate(Mixture(), x, base, journal=tmp_path / "work", **options)
    assert first.search.iterations[-1].samples == 32 + 64 * 8 // 16
    again = ls.calibrate(Mixture(), x, base, journal=tmp_path / "work", **options)
    assert again.card == first.card
    less = ls.calibrate(Mixture(), x, base, guard_mined=0.0, **options)
    assert less.search.iterations[-1].samples == 32
    assert first.calls > less.calls + 2 * 2 * 4 * 512


@pytest.mark.parametrize("wrong", [{"guard_mined": -1.0}, {"guard_mined": INFINITE}, {"guard_hard": 1.0}])
def test_impossible_pools(wrong):
    with pytest.raises(ls.InputError, match="expected a finite guard_mined >= 0 and guard_hard in"):
        ls.calibrate(Mixture(), noise_of(16), BASE, **wrong)
