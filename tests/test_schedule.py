"""Schedules: times, levels and the constraint of each family."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.families import alpha_of_ratio


def zero_terminal(table):
    """Rescaled to zero terminal SNR (Lin et al., 2024, Algorithm 1)."""
    root = np.sqrt(table)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


LINEAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SCHEDULES = {
    "edm": ls.Schedule.edm(),
    "linear": ls.Schedule.vp(),
    "scaled_linear": ls.Schedule.vp(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": ls.Schedule.vp(beta_schedule="cosine"),
    "zero_snr": ls.Schedule.vp(zero_terminal(LINEAR)),
    "continuous": ls.Schedule.vp_continuous(),
    "constant_beta": ls.Schedule.vp_continuous(beta_min=5.0, beta_max=5.0, t_max=2.0),
    "flow": ls.Schedule.flow(),
    "shifted_flow": ls.Schedule.flow(shift=3.0, time_scale=1.0),
}
EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
OWN_SCALE = ("zero_snr", "flow", "shifted_flow")


def times(schedule, count=101):
    """Fractional times, from the first to just before the last, which may be pure noise."""
    low, high = schedule.t_range
    return low + (high - low) * np.linspace(0, 0.998, count)


@EVERY
def test_time_to_level_and_back(schedule):
    t = times(schedule)
    np.testing.assert_allclose(schedule.time(schedule.frame_sigma(t)), t, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(schedule.time_of_ratio(schedule.ratio(t)), t, rtol=1e-9, atol=1e-9)


@EVERY
def test_levels_rise_with_time(schedule):
    t = np.append(times(schedule), schedule.t_range[1])
    assert np.all(np.diff(schedule.frame_sigma(t)) > 0)
    assert np.all(np.diff(schedule.ratio(t)) > 0)


@EVERY
def test_family_constraint(schedule):
    t = np.append(times(schedule), schedule.t_range[1])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    total = {"ve": alpha, "vp": alpha**2 + sigma**2, "flow": alpha + sigma}[schedule.family]
    np.testing.assert_allclose(total, 1, rtol=1e-14)
    np.testing.assert_allclose(sigma[:-1] / alpha[:-1], schedule.ratio(t[:-1]), rtol=1e-12)


@EVERY
def test_frame_is_the_process_up_to_scale(schedule):
    """In the frame sigma / alpha is the same number; alpha is 1, or the process's own."""
    t = times(schedule)
    level = schedule.frame_sigma(t)
    np.testing.assert_allclose(schedule.frame_ratio(level), schedule.ratio(t), rtol=1e-7)
    wanted = np.ones_like(t) if schedule.scaled else schedule.alpha(t)
    np.testing.assert_allclose(schedule.frame_alpha(level), wanted, rtol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_which_schedules_keep_their_own_scale(name):
    assert SCHEDULES[name].scaled is (name not in OWN_SCALE)


def test_zero_terminal_snr_keeps_its_table():
    """Every trained level but the last is the table's, however close to pure noise."""
    table, schedule = zero_terminal(LINEAR), SCHEDULES["zero_snr"]
    assert table[-2] < 1e-8
    np.testing.assert_allclose(schedule.alpha(np.arange(999)) ** 2, table[:-1], rtol=1e-9)


@pytest.mark.parametrize("name", OWN_SCALE)
def test_own_scale_starts_at_pure_noise(name):
    schedule = SCHEDULES[name]
    last = schedule.t_range[1]
    assert (schedule.alpha(last), schedule.sigma(last), schedule.ratio(last)) == (0, 1, np.inf)
    assert schedule.sigma_range[1] == 1
    assert schedule.time(1.0) == last


@EVERY
def test_range_and_clipping(schedule):
    low, high = schedule.t_range
    assert schedule.sigma_range == (float(schedule.frame_sigma(low)), float(schedule.frame_sigma(high)))
    assert schedule.time_of_ratio(0.0) == low
    assert schedule.time_of_ratio(np.inf) == pytest.approx(high, rel=1e-14)


@EVERY
def test_scalars_and_arrays(schedule):
    t = times(schedule, 6).reshape(2, 3)
    for method in (schedule.ratio, schedule.alpha, schedule.sigma, schedule.frame_sigma):
        assert method(t).shape == (2, 3)
        assert method(t)[1, 2] == method(float(t[1, 2]))
    assert schedule.time(schedule.frame_sigma(t)).shape == (2, 3)


def test_tables_of_beta():
    linear, latent = np.linspace(1e-4, 0.02, 1000), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    for name, betas in (("linear", linear), ("scaled_linear", latent)):
        np.testing.assert_allclose(SCHEDULES[name].alpha(np.arange(1000)) ** 2, np.cumprod(1 - betas), rtol=1e-11)


def test_cosine_table():
    """alphas_cumprod is cos² up to the cut of the last betas at 0.999 (Nichol & Dhariwal, 2021, Eq. 17)."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    bar = SCHEDULES["cosine"].alpha(np.arange(990)) ** 2
    np.testing.assert_allclose(bar, f[1:991] / f[0], rtol=1e-10)


def test_fractional_times_are_even_in_log_ratio():
    schedule = SCHEDULES["linear"]
    logs = np.log(schedule.ratio([300, 300.25, 301]))
    assert logs[1] - logs[0] == pytest.approx((logs[2] - logs[0]) / 4)


def test_continuous_schedule_integrates_beta():
    """-2 log alpha is the integral of beta, here by the trapezoidal rule, which is exact for a line."""
    schedule = ls.Schedule.vp_continuous(beta_min=0.1, beta_max=20.0, t_max=2.0)
    for t in (0.3, 1.7):
        beta = 0.1 + 19.9 * t / 2.0
        assert -2 * np.log(schedule.alpha(t)) == pytest.approx(t * (0.1 + beta) / 2)


def test_flow_shift_paces_uniform_grids():
    """SD3's shift: u = 1/2 becomes 3/4; the ends stay, and the map between time and level does not change."""
    plain, shifted = ls.Schedule.flow(), ls.Schedule.flow(shift=3.0)
    assert shifted.paced_time(0.5) == pytest.approx(750)
    assert plain.paced_time(0.5) == pytest.approx(500)
    low, high = shifted.pacing
    np.testing.assert_allclose(shifted.paced_time([low, high]), shifted.t_range)
    assert shifted.sigma(250.0) == plain.sigma(250.0) == 0.25


@pytest.mark.parametrize(
    ("ratio", "family", "alpha"),
    [(3.0, "ve", 1.0), (0.75, "vp", 0.8), (3.0, "flow", 0.25), (np.inf, "vp", 0.0), (np.inf, "flow", 0.0)],
)
def test_alpha_of_ratio(ratio, family, alpha):
    assert alpha_of_ratio(family, ratio) == pytest.approx(alpha)


# Read from diffusers


class FakeScheduler:
    """What ``from_diffusers`` reads of a scheduler: its class name, its config and perhaps a table."""

    def __init__(self, alphas_cumprod=None, **config):
        self.config = config
        if alphas_cumprod is not None:
            self.alphas_cumprod = torch.tensor(alphas_cumprod)


def named(name):
    return type(name, (FakeScheduler,), {})


def test_from_diffusers():
    read = ls.Schedule.from_diffusers
    vp = read(named("DDIMScheduler")(LINEAR))
    np.testing.assert_allclose(vp.ratio(np.arange(1000)), SCHEDULES["linear"].ratio(np.arange(1000)), rtol=1e-9)
    assert not read(named("DDIMScheduler")(zero_terminal(LINEAR))).scaled
    assert read(named("EDMEulerScheduler")(sigma_min=0.01, sigma_max=50.0)) == ls.Schedule.edm(0.01, 50.0)
    flow = read(named("FlowMatchEulerDiscreteScheduler")(num_train_timesteps=1000, shift=3.0))
    assert (flow.family, flow.shift, flow.time_scale) == ("flow", 3.0, 1000)
    flow = read(named("UniPCMultistepScheduler")(LINEAR, use_flow_sigmas=True, flow_shift=2.0))
    assert (flow.family, flow.shift) == ("flow", 2.0)


def test_from_diffusers_refuses_what_it_cannot_read():
    with pytest.raises(ls.InputError, match="cannot read a noise schedule from SimpleNamespace.*Schedule.vp"):
        ls.Schedule.from_diffusers(SimpleNamespace(config={}))


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ls.Schedule.vp(beta_schedule="cosin"), "unknown beta schedule 'cosin': did you mean 'cosine'"),
        (lambda: ls.Schedule.vp([0.5, 0.9]), "alphas_cumprod must be a decreasing list"),
        (lambda: ls.Schedule.vp([0.9]), "at least two numbers"),
        (lambda: ls.Schedule.vp([0.9, float("nan")]), "alphas_cumprod must be a decreasing list"),
        (lambda: ls.Schedule.vp([1.0, 0.5]), r"in \[0, 1\)"),
        (lambda: ls.Schedule.vp([0.9, -0.1]), r"in \[0, 1\)"),
        (lambda: ls.Schedule.edm(2.0, 1.0), "0 < sigma_min < sigma_max, got 2.0 and 1.0"),
        (lambda: ls.Schedule.edm(0.0, 1.0), "0 < sigma_min < sigma_max, got 0.0 and 1.0"),
        (lambda: ls.Schedule.vp_continuous(t_min=2.0), "0 < t_min < t_max.*t_min=2.0"),
        (lambda: ls.Schedule.vp_continuous(beta_min=30.0), "beta_min <= beta_max.*beta_min=30.0"),
        (lambda: ls.Schedule.flow(shift=0.0), "positive shift.*shift=0.0"),
        (lambda: ls.Schedule.flow(sigma_min=1.0), "0 < sigma_min < 1.*sigma_min=1.0"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ls.InputError, match=message):
        make()
