"""Intervals against normal theory, in closed form for two groups, and paired."""

from __future__ import annotations

from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from scipy.special import stdtrit

import longstride as ls
from longstride.evaluation.bootstrap import Interval, bootstrap_samples, group_bootstrap
from longstride.evaluation.frechet import Moments, frechet_distance


def mean(sums):
    return sums["total"] / sums["count"]


def test_the_interval_of_a_mean_is_normal_theorys():
    """95% of a normal lie within 1.96 standard errors; 20,000 replicates tell the ends to about 1.5%."""
    x = np.random.default_rng(2).normal(size=50)
    found = group_bootstrap(mean, {"count": np.ones(50), "total": x}, replicates=20_000)
    assert found.value == pytest.approx(x.mean(), rel=1e-12)
    half = 1.96 * x.std(ddof=1) / np.sqrt(50)
    assert found.high - found.value == pytest.approx(half, rel=0.05)
    assert found.value - found.low == pytest.approx(half, rel=0.05)
    narrow = group_bootstrap(mean, {"count": np.ones(50), "total": x}, replicates=20_000, level=0.6827)
    assert narrow.high - narrow.low == pytest.approx(2 * half / 1.96, rel=0.05)


@pytest.mark.parametrize("groups", [8, 40])
def test_intervals_hold_the_truth_as_often_as_they_say(groups):
    """Of 400 sets, 95 % ± 2.2 % is two standard errors of the count; few groups are a little light-tailed."""
    draw = np.random.default_rng(3)
    held = 0
    for seed in range(400):
        x = 1 + draw.normal(size=groups)
        found = group_bootstrap(mean, {"count": np.ones(groups), "total": x}, replicates=200, seed=seed)
        held += found.low <= 1 <= found.high
    assert 0.92 <= held / 400 <= 0.975


def test_samples_of_a_group_move_together():
    """Groups of ten equal samples are ten times fewer samples, in both functions and to the bit."""
    x = np.random.default_rng(4).normal(size=30)
    samples = x.repeat(10)
    sums = group_bootstrap(mean, {"count": np.full(30, 10.0), "total": 10 * x}, replicates=500, seed=5)
    raw = bootstrap_samples(np.mean, samples.reshape(30, 10), replicates=500, seed=5)
    for field in ("value", "low", "high"):
        assert getattr(raw, field) == pytest.approx(getattr(sums, field), rel=1e-10)
    apart = bootstrap_samples(np.mean, samples[:, None], replicates=500, seed=5)
    assert (raw.high - raw.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(10), rel=0.2)


def test_paired_differences_are_surer_than_unpaired_ones():
    """With common scatter s and own scatter t, the pair's is √2 t, that of independent sets √2 √(s² + t²)."""
    draw = np.random.default_rng(6)
    common, own = draw.normal(size=100), 0.1 * draw.normal(size=(2, 100))
    a, b = common + own[0], common + own[1] + 0.5
    paired = group_bootstrap(lambda both: both[1] - both[0], (a / 100, b / 100), replicates=4000)
    alone = [group_bootstrap(float, x / 100, replicates=4000) for x in (a, b)]
    unpaired = np.hypot(*(each.high - each.low for each in alone))
    assert paired.value == pytest.approx((b - a).mean())
    assert paired.low > 0.4
    assert (paired.high - paired.low) / unpaired == pytest.approx((b - a).std() / np.hypot(a.std(), b.std()), rel=0.1)
    rows = bootstrap_samples(lambda x: x[:, 1].mean() - x[:, 0].mean(), np.stack([a, b], 1)[:, None], 4000)
    assert rows.low == pytest.approx(paired.low, rel=1e-9)


def test_the_interval_of_a_frechet_distance_ignores_the_bias_of_resampling():
    """Replicates lie above the value, as resampled sets are biased; the interval is around the value."""
    draw = np.random.default_rng(7)
    real = Moments.of(draw.normal(size=(4000, 6)))
    groups = np.stack([Moments.of(draw.normal(size=(10, 6)) + 0.3).pack() for _ in range(20)])
    replicates = []

    def distance(packed):
        replicates.append(frechet_distance(Moments.unpack(packed, 6), real))
        return replicates[-1]

    found = group_bootstrap(distance, groups, replicates=200)
    assert found.value == replicates[0]
    assert np.mean(replicates[1:]) > found.value + 0.02
    scatter = np.array(replicates[1:]) - np.mean(replicates[1:])
    wider = stdtrit(19, 0.975) / NormalDist().inv_cdf(0.975)
    ends = found.value + wider * np.sqrt(20 / 19) * np.quantile(scatter, [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(ends.tolist(), rel=1e-12)


def test_the_interval_of_a_median_is_the_order_statistics():
    """The standard error of a normal's median is √(π/2) that of its mean, within the noise of one set."""
    x = np.random.default_rng(8).normal(size=2001)
    found = bootstrap_samples(np.median, x[:, None], replicates=400)
    assert found.value == np.median(x)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(np.pi / 2 / 2001), rel=0.2)


def test_seeds_reproduce_and_constants_have_no_interval():
    x = np.random.default_rng(9).normal(size=12)
    once, again, other = (group_bootstrap(float, x, replicates=50, seed=seed) for seed in (0, 0, 1))
    assert once == again != other
    assert group_bootstrap(lambda sums: 3.0, x) == Interval(3.0, 3.0, 3.0)
    nested = group_bootstrap(lambda sums: sums["x"][0][1][2], {"x": [(x, np.outer(x, np.arange(3)))]}, replicates=50)
    assert nested.value == pytest.approx(2 * x.sum())


def test_groups_of_different_sizes_weigh_by_their_samples():
    """Of four single zeros and four groups of three ones the mean is 3/4, and a zero drawn more weighs less."""
    groups = [np.zeros(1)] * 4 + [np.ones(3)] * 4
    found = bootstrap_samples(np.mean, groups, replicates=3000)
    assert found.value == 0.75
    ones = np.arange(9)  # of eight draws so many are groups of ones, with binomial probability
    share, chance = 3 * ones / (8 + 2 * ones), np.array([comb(8, n) for n in ones]) / 2**8
    average = share @ chance
    deviation = np.sqrt((share - average) ** 2 @ chance * 8 / 7) * stdtrit(7, 0.975) / 1.959964
    assert (found.high - found.low) / (2 * 1.96 * deviation) == pytest.approx(1, abs=0.12)


def test_ends_that_nothing_tells_are_none():
    assert group_bootstrap(float, np.full(1, 3.0)) == Interval(3.0, None, None)
    assert bootstrap_samples(np.median, [[1.0, 2.0]]) == Interval(1.5, None, None)
    assert group_bootstrap(float, np.arange(7.0)) == Interval(21.0, None, None)
    rare = np.array([[1.0, 0]] * 7 + [[1, 1]])  # a draw without the last group divides by zero
    assert group_bootstrap(lambda s: s[0] / s[1], rare) == Interval(8.0, None, None)


def test_bootstraps_refuse_what_has_no_groups():
    for groups in (np.ones(0), np.ones((0, 2))):
        with pytest.raises(ls.InputError, match="needs groups and two replicates"):
            group_bootstrap(float, groups)
    for groups in ({"a": np.ones(3), "b": np.ones(4)}, {}):
        with pytest.raises(ls.InputError, match="one leading axis of groups"):
            group_bootstrap(mean, groups)
    with pytest.raises(ls.InputError, match="two replicates"):
        group_bootstrap(float, np.ones(3), replicates=1)
    with pytest.raises(ls.InputError, match="level must lie between 0 and 1, got 95"):
        group_bootstrap(float, np.ones(3), level=95)
    for groups in ([], np.ones(3), [np.ones((2, 2)), np.ones((2, 3))]):
        with pytest.raises(ls.InputError, match=r"expected samples \(n, ...\) of every group"):
            bootstrap_samples(np.mean, groups)
