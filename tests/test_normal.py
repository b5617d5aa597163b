"""The distribution of clean runs: what it does not depend on, and thresholds that hold on simulations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

import longstride as ls
from longstride.guard.drift import Drift
from longstride.guard.normal import FEWEST, Normal, fit_normal, shrunk_covariance
from longstride.guard.thresholds import Law, ranks, score_threshold, shift_law, spread_bounds

SIZE = 12


def clean(count, seed=0):
    """Correlated normal statistics."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(SIZE, SIZE))
    return rng.normal(size=(count, SIZE)) @ mix


def windows(normal, statistics, size=16):
    """Shift and mean rank of disjoint windows."""
    cut, scores = normal.judged(statistics)
    shift = size * np.square(cut.reshape(-1, size, cut.shape[1]).mean(1)).sum(1)
    return shift, ranks(normal, scores).reshape(-1, size).mean(1)


def test_units_of_the_statistics_do_not_matter():
    """Every statistic may be stretched, moved and turned round by itself."""
    known, fresh = clean(256), clean(64, 1)
    stretch, moved = np.linspace(0.5, 40, SIZE) * np.where(np.arange(SIZE) % 2, 1, -1), np.linspace(-9, 9, SIZE)
    one, other = fit_normal(known), fit_normal(known * stretch + moved)
    (_, mine), (_, theirs) = one.judged(fresh), other.judged(fresh * stretch + moved)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4)  # a card keeps six digits
    np.testing.assert_allclose(one.cumulants, other.cumulants, rtol=1e-3)


def test_whitened_statistics_have_the_identity_for_their_covariance():
    """As far as samples tell: with many the shrinkage is at its least, and few are cut far out."""
    rng = np.random.default_rng(0)
    known = rng.normal(size=(20_000, SIZE)) @ (np.eye(SIZE) + 0.1 * rng.normal(size=(SIZE, SIZE)))
    found = replace(fit_normal(known), radius=1e9, middle=(0.0,) * SIZE)
    z, scores = found.judged(known)
    np.testing.assert_allclose(np.cov(z.T), np.eye(SIZE), atol=0.03)
    np.testing.assert_allclose(scores, np.square(z).sum(1))


def test_the_shrinkage_is_a_tenth_of_that_of_ledoit_and_wolf():
    """Written out; and its inverse is closer to the truth than the plain inverse where samples are few."""
    y = clean(20)
    y = y - y.mean(0)
    plain, n = y.T @ y / 20, 20
    mu = np.trace(plain) / SIZE
    away = np.square(plain - mu * np.eye(SIZE)).sum()
    noise = sum(np.square(np.outer(one, one) - plain).sum() for one in y) / n**2
    share = min(noise, away) / away / 10
    assert 0.001 < share < 0.1
    np.testing.assert_allclose(shrunk_covariance(y), share * mu * np.eye(SIZE) + (1 - share) * plain)
    truth = np.cov(clean(200_000, 5).T)
    mine, theirs = (np.square(np.linalg.inv(one) - np.linalg.inv(truth)).sum() for one in (shrunk_covariance(y), plain))
    assert mine < theirs


def test_traces_are_those_of_the_covariance_of_fresh_samples():
    normal = fit_normal(clean(2048))
    cut, _ = normal.judged(clean(100_000, 1))
    c = np.cov(cut.T)
    np.testing.assert_allclose(normal.cumulants, [np.trace(c), np.trace(c @ c), np.trace(c @ c @ c)], rtol=0.05)


def test_the_law_has_the_quantiles_of_a_sum_of_squares():
    """Chi-squared exactly; and a sum of unequal squares in its far tail."""
    from scipy.stats import chi2

    known = Law(5.0, 10**0.5, 2.5)
    assert known.quantile(1e-3) == pytest.approx(chi2(5).isf(1e-3))
    assert known.above(np.array([3.0, 20.0])) == pytest.approx(chi2(5).sf([3.0, 20.0]))
    parts = np.array([4.0, 2.0, 1.0, 0.5, 0.1])
    sums = (np.random.default_rng(0).chisquare(1, (400_000, 5)) * parts).sum(1)
    traces = [np.power(parts, k).sum() for k in (1, 2, 3)]
    law = Law(traces[0], (2 * traces[1]) ** 0.5, 4 * (2 * traces[1]) ** 3 / (8 * traces[2]) ** 2)
    assert (sums > law.quantile(1e-3)).mean() == pytest.approx(1e-3, abs=2e-4)


@pytest.mark.parametrize("tailed", [False, True])
def test_false_alarms_of_windows_are_as_rare_as_declared(tailed):
    """On 19 of 20 cards, normal statistics or heavy-tailed ones; 1 % on 4,000 windows each."""
    wanted, over = 0.01, 0
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        known, fresh = clean(256, seed), clean(64_000, 500 + seed)
        if tailed:  # as of Student's t with four degrees of freedom
            known, fresh = (one / np.sqrt(rng.chisquare(4, (len(one), 1)) / 4) for one in (known, fresh))
        normal = fit_normal(known)
        shift, spread = windows(normal, fresh)
        low, high = spread_bounds(normal, 16, wanted / 2)
        alarms = (shift > shift_law(normal, 16).quantile(wanted / 2)) | (spread < low) | (spread > high)
        over += alarms.mean() > wanted + 2 * np.sqrt(wanted / len(alarms))  # two standard errors
    assert over <= 2


def test_a_window_that_is_off_is_seen():
    """A mean that is off by half a deviation; runs that vary more; runs that vary less."""
    normal = fit_normal(clean(256))
    plain = clean(16_000, 1)
    above, (low, high) = shift_law(normal, 16).quantile(5e-4), spread_bounds(normal, 16, 5e-4)
    shift, _ = windows(normal, plain + 0.5 * plain.std(0))
    assert (shift > above).mean() > 0.99
    assert (windows(normal, 1.6 * plain)[1] > high).mean() > 0.99
    assert (windows(normal, 0.4 * plain)[1] < low).mean() > 0.99


def test_the_threshold_of_a_sample_is_conformal_where_samples_allow():
    many = fit_normal(clean(1200))
    found = score_threshold(many, 0.001)
    assert found.how == "conformal"
    assert found.score == many.scores[math.ceil(1201 * 0.999) - 1]
    few = fit_normal(clean(256))
    beyond = score_threshold(few, 0.001)
    assert beyond.how == "extrapolated"
    assert beyond.score >= few.scores[-1]
    rates = [
        (one.judged(clean(20_000, 77))[1] > score_threshold(one, 0.001).score).mean()
        for one in (fit_normal(clean(256, seed)) for seed in range(10))
    ]
    assert np.mean(rates) <= 0.001


def test_alarms_of_a_clean_stream_are_as_far_apart_as_declared():
    """With one false alarm in ten windows, over many windows; and a change that stays is found soon."""
    normal = fit_normal(clean(256))
    drift = Drift(normal, 0.1, 16)
    law, fresh = shift_law(normal, 16), clean(32_000, 3)
    shift, _ = windows(normal, fresh)
    places = ranks(normal, normal.judged(fresh)[1])
    alarms = sum(drift.sample(rank) for rank in places) + sum(drift.window(one) for one in law.above(shift))
    assert alarms <= 0.1 * len(shift)
    sharp, moved = Drift(normal, 0.001, 16), ranks(normal, normal.judged(1.15 * fresh)[1])
    assert next(n for n, rank in enumerate(moved) if sharp.sample(rank)) < 1600
    assert 0 <= sharp.near < 1


def test_nan_is_infinitely_far_and_moves_no_window():
    normal, some = fit_normal(clean(64)), clean(4, 1)
    some[1, 2] = np.nan
    cut, scores = normal.judged(some)
    assert np.isinf(scores).tolist() == [False, True, False, False]
    assert np.abs(cut[1]).max() == 0
    huge = np.full((1, SIZE), 1e300)
    assert np.isfinite(normal.judged(huge)[1]).all()
    with pytest.raises(ls.InputError, match=r"statistics \(B, 12\)"):
        normal.judged(some[:, :3])


def test_statistics_that_never_move_are_no_reason_for_alarms():
    """Within rounding; a real change of them is."""
    known, fresh = clean(64), clean(4, 1)
    known[:, 3], fresh[:, 3] = 0.7, 0.7 + 1e-7
    normal = fit_normal(known)
    (_, same), (_, off) = normal.judged(fresh), normal.judged(fresh + np.eye(SIZE)[3])
    assert same.max() < 10 * SIZE
    assert off.min() > 3 * same.max()


def test_too_few_runs_tell_nothing():
    assert fit_normal(clean(FEWEST - 1)) is None
    bad = clean(FEWEST)
    bad[0, 0] = np.nan
    assert fit_normal(bad) is None
    assert fit_normal(np.zeros((64, 300))) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 4),
        ("samples", 10**9),
        ("samples", 65),
        ("scale", [0.0] * SIZE),
        ("centre", [0.0] * 300),
        ("centre", [float("nan")] * SIZE),
        ("whitening", [[1.0]] * SIZE),
        ("whitening", [[0.0] * (i + 1) for i in range(SIZE)]),
        ("mean", [0.0]),
        ("radius", 0.0),
        ("radius", float("inf")),
        ("scores", [2.0, 1.0] * 32),
        ("scores", [-1.0] + [1.0] * 63),
        ("cumulants", [1.0, 1.0]),
        ("cumulants", [0.0, 1.0, 1.0]),
        ("more", 1),
    ],
)
def test_a_hostile_part_of_a_card_is_refused(field, value):
    part = TypeAdapter(Normal)
    whole = part.dump_python(fit_normal(clean(64)), mode="json")
    assert part.validate_python(whole) == fit_normal(clean(64))
    with pytest.raises(ValueError, match="validation error"):
        part.validate_python({**whole, field: value})


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_shares(share):
    normal = fit_normal(clean(64))
    for function in (lambda: score_threshold(normal, share), lambda: spread_bounds(normal, 16, share)):
        with pytest.raises(ls.InputError, match="between 0 and 1"):
            function()
