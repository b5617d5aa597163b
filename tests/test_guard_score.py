"""The score and its threshold, and the bound on a share."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, spearmanr

import longstride as ls
from longstride.guard import Guard
from longstride.guard.bound import needed, upper_share
from longstride.guard.score import FEWEST, fit_guard, log_ratios
from longstride.guard.statistics import names


def drawn(n, seed=0, scatter=0.3):
    """Statistics, and log ratios that grow with the first one."""
    rng = np.random.default_rng(seed)
    statistics = rng.normal(size=(n, 6)) * [1, 10, 0.1, 1, 1, 1] + [0, 100, 0, -3, 0, 0]
    return statistics, 0.6 * statistics[:, 0] + scatter * rng.normal(size=n)


def test_what_follows_from_one_statistic_is_ranked_by_it():
    guard, (fresh, ratios) = fit_guard(*drawn(100, scatter=0.0), 0.03), drawn(400, 1, scatter=0.0)
    inside = np.abs(fresh[:, 0]) < 2  # beyond its cut a statistic counts no more
    assert spearmanr(guard.scores(fresh)[inside], ratios[inside])[0] > 0.99
    np.testing.assert_allclose(guard.scores(fresh)[inside], np.tanh(ratios[inside] - np.log(2)), atol=0.35)


def test_units_of_statistics_do_not_matter():
    statistics, ratios = drawn(60)
    factors, shifts = np.array([2.0, 0.1, 50, 1, 3, 1e3]), np.array([1.0, -5, 0, 7, 0, 0])
    one, other = fit_guard(statistics, ratios, 0.05), fit_guard(statistics * factors + shifts, ratios, 0.05)
    fresh = drawn(50, 2)[0]
    np.testing.assert_allclose(other.scores(fresh * factors + shifts), one.scores(fresh), atol=1e-8)
    assert other.threshold == pytest.approx(one.threshold, abs=1e-8)


def test_a_score_never_falls_where_a_statistic_of_positive_weight_rises():
    guard = Guard((0.0, 1.0), (1.0, 2.0), (0.5, -0.25), offset=0.1, threshold=0.0, share=0.1)
    line = np.stack([np.linspace(-9, 9, 50), np.ones(50)], axis=1)
    scores = guard.scores(line)
    assert (np.diff(scores) >= 0).all()
    assert scores[[0, -1]].tolist() == [0.1 - 0.5 * 4, 0.1 + 0.5 * 4]
    assert guard.scores(np.array([[1.0, 3.0]])).tolist() == [0.1 + 0.5 - 0.25]


def test_a_constant_statistic_says_nothing():
    statistics, ratios = drawn(60)
    more = np.column_stack([statistics, np.full(60, 7.0)])
    assert fit_guard(more, ratios, 0.03).weights[-1] == 0
    fresh = np.column_stack([drawn(20, 3)[0], np.full(20, 7.0)])
    one = fit_guard(statistics, ratios, 0.03)
    np.testing.assert_allclose(fit_guard(more, ratios, 0.03).scores(fresh), one.scores(fresh[:, :-1]), atol=1e-10)


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_about_the_declared_share_of_fresh_samples_is_flagged(share):
    """On average over calibrations, as the threshold is a conformal quantile; half of the samples can be bad."""
    flagged = []
    for seed in range(60):
        guard = fit_guard(*drawn(96, seed, scatter=1.5), share)
        flagged.append(guard.flags(drawn(500, 1000 + seed)[0]).mean())
    assert np.mean(flagged) == pytest.approx(share, rel=0.35)


def test_further_runs_without_errors_tell_the_threshold():
    """The share of fresh samples that it flags scatters by what a quantile of so many samples scatters."""
    flagged = {96: [], 4096: []}
    for seed in range(30):
        statistics, ratios = drawn(96, seed, scatter=1.5)
        for count, found in flagged.items():
            others = drawn(count, 2000 + seed)[0] if count > 96 else None
            guard = fit_guard(statistics, ratios, 0.1, others=others)
            found.append(guard.flags(drawn(4000, 1000 + seed)[0]).mean())
    assert np.mean(flagged[4096]) == pytest.approx(0.1, abs=0.005)
    assert np.std(flagged[4096]) < 0.01 < 2 * 0.01 < np.std(flagged[96])


def test_a_score_is_of_the_samples_that_count():
    """Samples of another law, of little weight, do not matter; equal weights are no weights."""
    (statistics, ratios), (others, _) = drawn(200, scatter=0.0), drawn(100, 1)
    both, wrong = np.concatenate([statistics, others]), np.concatenate([ratios, -others[:, 0]])
    weights = np.r_[np.ones(200), np.full(100, 1e-9)]
    fresh = drawn(50, 2)[0]
    found = fit_guard(both, wrong, 0.03, weights=weights).scores(fresh)
    assert spearmanr(found, fit_guard(statistics, ratios, 0.03).scores(fresh))[0] > 0.999
    assert spearmanr(found, fit_guard(both, wrong, 0.03).scores(fresh))[0] < 0.9
    same = fit_guard(statistics, ratios, 0.03, weights=np.ones(200))
    np.testing.assert_array_equal(same.scores(fresh), fit_guard(statistics, ratios, 0.03).scores(fresh))


def test_samples_that_the_table_was_fitted_on_do_not_set_the_threshold():
    """They do better by the statistic that tells, so that a threshold over all samples flags too many others."""
    flagged = {0: [], 300: []}
    for seed in range(20):
        statistics, ratios = drawn(600, seed)
        easy = np.where(np.arange(600) < 300, -2.0, 0.0)
        statistics[:, 0] += easy
        for fitted, found in flagged.items():
            guard = fit_guard(statistics, ratios + 0.6 * easy, 0.05, fitted=fitted)
            found.append(guard.flags(drawn(1000, 1000 + seed)[0]).mean())
    assert np.mean(flagged[300]) == pytest.approx(0.05, rel=0.15)
    assert np.mean(flagged[0]) > 0.075


def test_samples_that_cannot_be_bad_are_not_made_again():
    statistics, ratios = drawn(96, scatter=0.1)
    assert fit_guard(statistics, ratios, 0.1).flags(drawn(500, 5)[0]).any()
    assert not fit_guard(statistics, ratios - 3.0, 0.1).flags(drawn(500, 5)[0]).any()


def run_of(n, seed=0, nfe=4, told=1):
    """Statistics of runs; those of call ``told`` say how bad a sample is, one in three, and later calls say no more."""
    rng = np.random.default_rng(seed)
    statistics = rng.normal(size=(n, len(names(nfe))))
    return statistics, np.where(statistics[:, len(names(told)) - 1] > 0.5, 0.9, -3.0)


@pytest.mark.parametrize("told", [1, 2, 4])
def test_a_guard_looks_as_soon_as_bad_samples_can_be_told(told):
    """Each call later the same further calls pay for fewer samples."""
    guard = fit_guard(*run_of(400, told=told), 0.05, 4)
    assert guard.calls == told
    assert len(guard.weights) == len(names(told))
    assert guard.share == (0.25 if told == 1 else min(0.05 * 4 / (told - 1), 0.25))
    fresh, ratios = run_of(4000, 1, told=told)
    flags, bad = guard.flags(fresh), ratios > 0
    assert flags.mean() <= 1.3 * guard.share
    assert (flags & bad).mean() > 0.95 * min(flags.mean(), bad.mean())
    np.testing.assert_array_equal(guard.scores(fresh[:, : len(guard.weights)]), guard.scores(fresh))


def test_the_fit_of_a_look_is_that_of_its_statistics_alone():
    statistics, ratios = run_of(200, told=2)
    early, alone = fit_guard(statistics, ratios, 0.05, 4), fit_guard(statistics[:, : len(names(2))], ratios, 0.2)
    assert early.calls == 2
    np.testing.assert_allclose(early.weights, alone.weights)
    assert early.threshold == alone.threshold


def test_what_is_not_finite_is_flagged():
    guard, fresh = fit_guard(*drawn(60), 0.03), drawn(5, 1)[0]
    fresh[2, 4] = np.nan
    assert guard.scores(fresh)[2] == np.inf
    assert guard.flags(fresh)[2]


def test_few_samples_fit_no_guard():
    statistics, ratios = drawn(FEWEST)
    assert fit_guard(statistics, ratios, 0.03) is not None
    statistics[0, 0] = np.nan
    assert fit_guard(statistics, ratios, 0.03) is None


def test_log_ratios_and_their_ends():
    found = log_ratios(np.array([4.0, 1.0, 0.0, 0.0, np.inf, np.nan]), np.array([1.0, 4.0, 0.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [np.log(2), -np.log(2), 0.0, -4.0, 4.0, 4.0])


def test_a_guard_checks_its_numbers():
    numbers = {"centre": (0.0,), "scale": (1.0,), "weights": (1.0,), "offset": 0.0, "threshold": 1.0, "share": 0.03}
    Guard(**numbers)
    for wrong in ({"scale": (0.0,)}, {"weights": (1.0, 2.0)}):
        with pytest.raises(ls.InputError, match="as many medians, positive deviations and weights"):
            Guard(**{**numbers, **wrong})
    with pytest.raises(ls.InputError, match="looks after 2 calls does not have 1 weights"):
        Guard(**numbers, calls=2)
    with pytest.raises(ls.InputError, match="between 0 and 1, got 1"):
        Guard(**{**numbers, "share": 1.0})
    with pytest.raises(ls.InputError, match=r"expected statistics \(B, 1\), got \(3, 2\)"):
        Guard(**numbers).scores(np.zeros((3, 2)))


# The bound


@pytest.mark.parametrize("n", [1, 48, 149, 2000])
def test_without_a_bad_sample_the_bound_is_a_root(n):
    assert upper_share(0, n, 0.95) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-10)
    assert upper_share(n, n, 0.95) == 1.0


@pytest.mark.parametrize(("bad", "n"), [(1, 20), (3, 176), (40, 300)])
def test_at_the_bound_so_few_bad_samples_are_just_too_unlikely(bad, n):
    for confidence in (0.9, 0.975):
        assert binom.cdf(bad, n, upper_share(bad, n, confidence)) == pytest.approx(1 - confidence, rel=1e-8)


@pytest.mark.parametrize(("share", "n"), [(0.005, 200), (0.02, 183), (0.1, 50)])
def test_the_bound_holds_as_often_as_it_says(share, n):
    drawn = np.random.default_rng(0).binomial(n, share, size=4000)
    holds = np.mean([upper_share(int(bad), n, 0.95) >= share for bad in drawn])
    assert holds > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_so_many_samples_are_needed(confidence):
    n = needed(0.02, confidence)
    assert upper_share(0, n, confidence) <= 0.02 < upper_share(0, n - 1, confidence)


@pytest.mark.parametrize(("bad", "n", "confidence"), [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 5, 1.0)])
def test_impossible_counts(bad, n, confidence):
    with pytest.raises(ls.InputError, match="expected 0 <= bad <= samples"):
        upper_share(bad, n, confidence)
