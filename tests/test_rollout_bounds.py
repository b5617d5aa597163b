"""Bounds that hold at every moment: the formula of the capital, coverage by simulation, and what is kept to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import longstride as ls
from longstride.rollout import METRICS, Bounds

RNG = np.random.default_rng


def capitals(pairs: list[tuple[float, float]], m: float, level: float) -> tuple[float, float]:
    """Largest capitals of bets that the share is above ``m`` and below it, by the formulas and one guess alone."""
    up, down, largest = 1.0, 1.0, (1.0, 1.0)
    for t in range(1, len(pairs) + 1):
        past = pairs[: t - 1]
        squares, a_sum, both = 0.25, 0.5, 1.0
        for a, b in past:
            a_sum, both = a_sum + a, both + a + b
            squares += (a - a_sum / both * (a + b)) ** 2
        stake = math.sqrt(2 * math.log(1 / level) / (squares / t * t * math.log(t + 1)))
        a, b = pairs[t - 1]
        gain = (1 - m) * a - m * b
        up *= 1 + min(stake, 0.75 / m) * gain
        down *= 1 - min(stake, 0.75 / (1 - m)) * gain
        largest = max(largest[0], up), max(largest[1], down)
    return largest


@pytest.mark.parametrize("level", [0.3, 0.01])
def test_a_mark_is_ruled_out_exactly_when_the_capital_says_so(level):
    rng, seen = RNG(1), set()
    for m in (0.2, 0.45, 0.55, 0.8):
        for center in (0.3, 0.5, 0.6):
            pairs = [
                (float(x * s), float((1 - x) * s))
                for x, s in zip(rng.normal(center, 0.1, 40).clip(0, 1), rng.random(40), strict=True)
            ]
            bounds = Bounds(level, [m])
            for a, b in pairs:
                bounds.see(a, b)
            up, down = capitals(pairs, m, level)
            assert (bounds.lower >= m) == (up >= 1 / level)
            assert (bounds.upper <= m) == (down >= 1 / level)
            seen |= {bounds.lower >= m, bounds.upper <= m}
    assert seen == {True, False}


@pytest.mark.parametrize(("m", "level"), [(0.525, 0.05 / 6), (0.7, 0.05), (0.4, 0.01)])
def test_certain_harm_is_seen_after_as_many_pairs_as_three_quarters_at_stake_take(m, level):
    """The capital grows by 1 + c (1 − m) / m with every pair (1, 0)."""
    bounds = Bounds(level, [m])
    while bounds.lower < m:
        bounds.see(1.0)
    assert bounds.count == math.ceil(math.log(1 / level) / math.log(1 + 0.75 * (1 - m) / m))


#: A pair, the share, and whether some of the runs must fail at a level of one in five: else the bounds are too wide.
DRAWS = {
    "rare flags": (lambda rng: (float(rng.random() < 0.03), None), 0.03, True),
    "contrasts of equals": (lambda rng: (float(1 / (1 + rng.lognormal(0, 1.4))), None), 0.5, True),
    "means of small errors": (lambda rng: (float(rng.beta(1, 30)), float(rng.beta(1, 30))), 0.5, False),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_bounds_are_wrong_at_any_time_less_often_than_their_level(name):
    draw, share, some_fail = DRAWS[name]
    level, runs = 0.2, 60
    below = above = 0
    for seed in range(runs):
        rng, bounds = RNG(seed), Bounds(level)
        for _ in range(150):
            bounds.see(*draw(rng))
        below += bounds.lower > share
        above += bounds.upper < share
    assert max(below, above) <= level * runs
    assert below + above > 0 or not some_fail


def test_bounds_close_in_on_the_share():
    rng, bounds, widths = RNG(0), Bounds(0.01), []
    for _ in range(1000):
        bounds.see(min(1.0, float(rng.normal(0.6, 0.1))))
        widths.append(bounds.upper - bounds.lower)
    assert widths == sorted(widths, reverse=True)
    assert 0.57 < bounds.lower < 0.6 < bounds.upper < 0.63


def test_the_ratio_of_means_is_bounded_whatever_the_common_scale():
    """Of small numbers too; each a is on average twice its b."""
    rng, bounds = RNG(0), Bounds(0.01)
    for _ in range(1500):
        bounds.see(float(0.2 * rng.random()), float(0.1 * rng.random()))
    assert 1.5 < bounds.lower / (1 - bounds.lower) < 2 < bounds.upper / (1 - bounds.upper) < 2.7


def test_swapped_pairs_mirror_the_bounds():
    rng, one, other = RNG(3), Bounds(0.05), Bounds(0.05)
    for _ in range(80):
        a, b = rng.random(2)
        one.see(a**2, b)
        other.see(b, a**2)
    assert one.count == other.count == 80
    np.testing.assert_allclose([one.lower, one.upper], [1 - other.upper, 1 - other.lower], atol=1e-12)
    assert one.lower > 0.1


def test_bounds_are_kept_to_the_bit():
    rng, whole = RNG(4), Bounds(0.05, [0.51])
    values = rng.random(60).tolist()
    for value in values:
        whole.see(value)
    first = Bounds(0.05, [0.51])
    for value in values[:31]:
        first.see(value)
    second = Bounds(0.05, [0.51]).loads(first.dumps())
    for value in values[31:]:
        second.see(value)
    assert second.dumps() == whole.dumps()
    assert (second.count, second.lower, second.upper, second.estimate) == (60, whole.lower, whole.upper, whole.estimate)


def test_numbers_out_of_range_are_refused():
    for bad in ((1.2, None), (-0.1, None), (float("nan"), None), (0.5, 1.5)):
        with pytest.raises(ls.InputError, match="from 0 to 1"):
            Bounds(0.05).see(*bad)
    with pytest.raises(ls.InputError, match="between 0 and 1"):
        Bounds(1.0)
    with pytest.raises(ls.InputError, match="bytes do not hold bounds with 129 guesses"):
        Bounds(0.05).loads(Bounds(0.05, [0.123]).dumps())


@pytest.mark.parametrize("name", METRICS)
def test_values_and_shares_of_a_comparison_are_inverse(name):
    metric = METRICS[name]
    for value in (metric.tolerance, 0.0, 0.5, 0.9):
        assert metric.value(metric.share(value)) == pytest.approx(value, abs=1e-12)
    equal = {"ratio": 1.0, "mean": 1.0, "extra": 0.0}.get(metric.unit)
    assert equal is None or metric.share(equal) == 0.5  # as often better as worse
