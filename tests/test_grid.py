"""Grids: names, ends, number of levels and evenness."""

from __future__ import annotations

import numpy as np
import pytest

import longstride as ls
from longstride.grid import GRIDS

SCHEDULES = {
    "edm": ls.Schedule.edm(),
    "vp": ls.Schedule.vp(),
    "zero_snr": ls.Schedule.vp(np.append(np.linspace(0.999, 0.01, 999), 0.0)),
    "continuous": ls.Schedule.vp_continuous(),
    "flow": ls.Schedule.flow(),
    "shifted_flow": ls.Schedule.flow(shift=3.0, time_scale=1.0),
}
EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
SHAPED = [name for name in GRIDS if name != "explicit"]


@EVERY
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", SHAPED)
def test_levels_and_ends(name, final, schedule):
    low, high = schedule.sigma_range
    for steps in (1, 2, 7, 50):
        levels = ls.grid(name, steps, schedule=schedule, final=final)
        assert levels.shape == (steps + 1,)
        assert levels.dtype == np.float64
        assert np.all(np.diff(levels) < 0)
        assert levels[0] == pytest.approx(high, rel=1e-12)
        assert levels[-1] == (0 if final == "zero" else pytest.approx(low, rel=1e-12))
        ls.build("ddim", levels, schedule=schedule)


@pytest.mark.parametrize("name", ["karras", "log_snr"])
@pytest.mark.parametrize("schedule", [SCHEDULES["edm"], SCHEDULES["flow"], SCHEDULES["zero_snr"], None])
def test_given_ends_are_taken(name, schedule):
    for high in (0.8, 1.0):  # 1 is pure noise on a model's own scale
        levels = ls.grid(name, 6, schedule=schedule, sigma_min=0.1, sigma_max=high, final="sigma_min")
        assert levels[0] == high
        assert levels[-1] == pytest.approx(0.1, rel=1e-14)


def test_karras_is_even_in_the_seventh_root():
    levels = ls.grid("karras", 10, sigma_min=0.002, sigma_max=80.0)
    root = levels[:-1] ** (1 / 7)
    np.testing.assert_allclose(np.diff(root), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 9, rtol=1e-9)
    other = ls.grid("karras", 10, sigma_min=0.002, sigma_max=80.0, rho=3.0)[:-1] ** (1 / 3)
    np.testing.assert_allclose(np.diff(other), np.diff(other)[0], rtol=1e-9)


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_log_snr_is_even_in_log_ratio(name):
    schedule = SCHEDULES[name]
    high = 0.99 if name == "flow" else None
    levels = ls.grid("log_snr", 10, schedule=schedule, sigma_max=high, final="sigma_min")
    steps = np.diff(np.log(schedule.frame_ratio(levels)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


@pytest.mark.parametrize("name", ["vp", "continuous", "edm", "flow"])
def test_quadratic_is_even_in_the_root_of_time(name):
    schedule = SCHEDULES[name]
    low, high = schedule.t_range
    t = schedule.time(ls.grid("quadratic", 10, schedule=schedule, final="sigma_min"))
    root = np.sqrt((t - low) / (high - low))
    np.testing.assert_allclose(np.diff(root), -0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "offset", "wanted"),
    [
        ("trailing", 0, [999, 799, 599, 399, 199]),
        ("leading", 0, [800, 600, 400, 200, 0]),
        ("leading", 1, [801, 601, 401, 201, 1]),
        ("linspace", 0, [999, 799, 599, 400, 200]),
    ],
)
def test_uniform_visits_the_times_of_ddim(spacing, offset, wanted):
    """Table 2 of Lin et al. (2024), for 5 of 1000 times."""
    schedule = SCHEDULES["vp"]
    levels = ls.grid("uniform", 5, schedule=schedule, spacing=spacing, steps_offset=offset)
    np.testing.assert_allclose(schedule.time(levels[:-1]), wanted, atol=1e-9)


def test_as_many_steps_as_times_visit_every_time():
    schedule = SCHEDULES["vp"]
    for spacing in ("trailing", "leading"):
        levels = ls.grid("uniform", 1000, schedule=schedule, spacing=spacing)
        np.testing.assert_allclose(schedule.time(levels[:-1]), np.arange(999, -1, -1), atol=1e-9)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [998, 999, 1000, 1001, 1500])
def test_many_steps_repeat_no_level(steps, spacing):
    levels = ls.grid("uniform", steps, schedule=SCHEDULES["vp"], spacing=spacing)
    assert len(levels) == steps + 1
    assert np.all(np.diff(levels) < 0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["edm", "continuous", "flow", "shifted_flow"])
def test_uniform_is_even_in_continuous_time(name, spacing):
    """No rounding to whole times, even where the range ends at a whole number."""
    schedule = SCHEDULES[name]
    for steps in (1, 2, 6):
        levels = ls.grid("uniform", steps, schedule=schedule, spacing=spacing)
        t = schedule.time(levels[:-1])
        u = t / (3 - 2 * t) if name == "shifted_flow" else t
        np.testing.assert_allclose(np.diff(u, 2), 0, atol=1e-9 * u[0])
        assert len(levels) == steps + 1


def test_explicit_levels_are_taken_as_they_are():
    np.testing.assert_array_equal(ls.grid("explicit", sigmas=[5.0, 1.0, 0.1]), [5.0, 1.0, 0.1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "karas", "steps": 5}, "unknown grid 'karas': did you mean 'karras'"),
        ({"name": "zzz", "steps": 5}, "unknown grid 'zzz': known: explicit, karras, log_snr"),
        ({"name": "karras", "steps": 5, "final": "zeros"}, "unknown final level 'zeros': did you mean 'zero'"),
        ({"name": "karras", "steps": 0}, "steps must be at least 1, got 0"),
        ({"name": "karras", "steps": None}, "steps must be at least 1, got None"),
        ({"name": "karras", "steps": 5}, "give the range.*sigma_min= and sigma_max=, or schedule="),
        ({"name": "log_snr", "steps": 5, "sigma_max": 1.0}, "give the range of noise levels"),
        ({"name": "karras", "steps": 5, "sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min < sigma_max, got 2 and 1"),
        ({"name": "karras", "steps": 5, "sigma_min": 0.0, "sigma_max": 1.0}, "0 < sigma_min.*got 0 and 1"),
        ({"name": "karras", "steps": 5, "schedule": SCHEDULES["flow"], "sigma_max": 1.5}, "got sigma_max = 1.5"),
        ({"name": "karras", "steps": 5, "schedule": SCHEDULES["zero_snr"], "sigma_max": 1.5}, "got sigma_max = 1.5"),
        (
            {"name": "karras", "steps": 5, "schedule": SCHEDULES["flow"], "sigma_min": 0.5, "sigma_max": 0.2},
            "sigma_min < sigma_max, got 0.5 and 0.2",  # as given, not as ratios
        ),
        ({"name": "uniform", "steps": 5}, "grid 'uniform' is even in the network's time: pass schedule="),
        ({"name": "quadratic", "steps": 5}, "grid 'quadratic' is even in the network's time: pass schedule="),
        (
            {"name": "uniform", "steps": 5, "schedule": SCHEDULES["vp"], "spacing": "trail"},
            "unknown spacing 'trail': did you mean 'trailing'",
        ),
        (
            {"name": "uniform", "steps": 5, "schedule": SCHEDULES["vp"], "spacing": "leading", "final": "sigma_min"},
            "leading spacing already ends at sigma_min",
        ),
        ({"name": "explicit"}, "grid 'explicit' needs sigmas="),
        ({"name": "explicit", "sigmas": [1.0]}, r"at least two noise levels in one list, got shape \(1,\)"),
        ({"name": "explicit", "sigmas": [[2.0, 1.0]]}, r"one list, got shape \(1, 2\)"),
        ({"name": "explicit", "sigmas": [2.0, float("nan"), 1.0]}, "noise level 1 is nan"),
        ({"name": "explicit", "sigmas": [float("inf"), 1.0]}, "noise level 0 is inf"),
        ({"name": "explicit", "sigmas": [3.0, 1.0, 2.0]}, r"level 1 \(1\) is below level 2 \(2\)"),
        ({"name": "explicit", "sigmas": [3.0, 1.0, 1.0]}, r"level 1 \(1\) repeats level 2 \(1\)"),
        ({"name": "explicit", "sigmas": [3.0, 1.0, -1.0]}, "cannot be negative: the last one is -1"),
    ],
)
def test_errors_name_what_was_wrong(arguments, message):
    with pytest.raises(ls.InputError, match=message):
        ls.grid(**arguments)
