"""What holds for every schedule at every time, and for every grid on it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIGHT, SCHEDULES

import longstride as ls
from longstride.card_parts import ScheduleData

SHARES = st.floats(0.0, 1.0)


def time_at(schedule, share):
    low, high = schedule.t_range
    return low + share * (high - low)


@LIGHT
@given(SCHEDULES, SHARES)
def test_alpha_and_sigma_meet_the_constraint_of_their_family(schedule, share):
    t = time_at(schedule, share)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    found = {"ve": alpha, "vp": alpha**2 + sigma**2, "flow": alpha + sigma}[schedule.family]
    assert found == pytest.approx(1.0, abs=1e-12)
    if alpha > 0:
        assert sigma / alpha == pytest.approx(float(schedule.ratio(t)), rel=1e-9)


@LIGHT
@given(SCHEDULES, SHARES, SHARES)
def test_more_time_is_more_noise_and_levels_lead_back_to_times(schedule, one, other):
    low, high = sorted((time_at(schedule, one), time_at(schedule, other)))
    span = schedule.t_range[1] - schedule.t_range[0]
    assert schedule.ratio(low) <= schedule.ratio(high)
    for t in (low, high):
        level = schedule.frame_sigma(t)
        rate = float(np.abs(schedule.frame_sigma(t - 1e-6 * span) - level)) / (1e-6 * span)
        if rate * span > 1e-3 * float(level):  # where the level hardly moves, it cannot tell the time
            assert float(schedule.time(level)) == pytest.approx(t, abs=1e-6 * span)
        assert float(schedule.frame_sigma(schedule.time(level))) == pytest.approx(float(level), rel=1e-6)


@LIGHT
@given(SCHEDULES, SHARES)
def test_a_schedule_comes_back_from_its_numbers(schedule, share):
    again = ScheduleData.of(schedule).schedule()
    assert again == schedule
    assert float(again.ratio(time_at(schedule, share))) == float(schedule.ratio(time_at(schedule, share)))


@LIGHT
@given(SCHEDULES, st.sampled_from(["karras", "log_snr"]), st.integers(1, 40), st.booleans(), st.floats(1.0, 15.0))
def test_spaced_grids_fall_from_the_greatest_to_the_least_level(schedule, name, steps, zero, rho):
    final = "zero" if zero else "sigma_min"
    found = ls.grid(name, steps, schedule=schedule, final=final, rho=rho)
    low, high = schedule.sigma_range
    assert found.shape == (steps + 1,)
    assert found[0] == pytest.approx(high, rel=1e-12)
    assert np.all(np.diff(found) < 0)
    assert found[-1] == (0.0 if zero else pytest.approx(low, rel=1e-9))
    if zero and steps > 1:
        assert found[-2] == pytest.approx(low, rel=1e-9)


@LIGHT
@given(
    SCHEDULES, st.sampled_from(["leading", "trailing", "linspace"]), st.integers(1, 60), st.booleans(), st.booleans()
)
def test_timed_grids_fall_or_are_refused(schedule, spacing, steps, zero, quadratic):
    name, final = "quadratic" if quadratic else "uniform", "zero" if zero else "sigma_min"
    try:
        found = ls.grid(name, steps, schedule=schedule, spacing=spacing, final=final)
    except ls.InputError:
        return
    assert found.shape == (steps + 1,)
    assert np.all(np.diff(found) < 0)
    assert 0 <= found[-1] < found[0] <= schedule.sigma_range[1] * (1 + 1e-12)
    assert (found[-1] == 0) == zero


@LIGHT
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6))
def test_levels_are_taken_as_they_are_or_refused(levels):
    fine = len(levels) > 1 and np.isfinite(levels).all() and levels[-1] >= 0
    fine = fine and all(a > b for a, b in pairwise(levels))
    if fine:
        assert ls.grid("explicit", sigmas=levels).tolist() == levels
    else:
        with pytest.raises(ls.InputError):
            ls.grid("explicit", sigmas=levels)
