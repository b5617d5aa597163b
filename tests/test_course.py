"""Calibration tells a network where in a run every call stands, and the right levels of that run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.course import Course
from longstride.network import as_network, in_batches

SCHEDULE = ls.Schedule.vp()
TABLE = ls.build("ddim", ls.grid("karras", 4, sigma_min=0.05, sigma_max=20.0))
FEW = {
    "gauss_newton": {"iterations": 1, "scouts": 0, "reference_steps": 12},
    "global": {"reference_steps": 12},
    "iia": {},
}


class Positional:
    """A network that notes every question, and fails if the question is not a call of the run that it is told."""

    positional = True

    def __init__(self):
        self.asked = []

    def __call__(self, x, times):
        raise AssertionError("a call that does not say where in its run it stands")

    def at(self, times, ratios, k):
        assert times.shape == (len(ratios) - 1,)
        assert 0 <= k < len(times)

        def network(x, told):
            np.testing.assert_allclose(told.numpy(), times[k], rtol=1e-6)
            np.testing.assert_allclose(SCHEDULE.ratio(times[k]), ratios[k], rtol=1e-6)
            self.asked.append((tuple(ratios), k, len(x)))
            return plain(x, told)

        return network


def plain(x, times):
    return 0.3 * torch.tanh(x) + times.view(-1, *(1,) * (x.ndim - 1)) / 2000


@pytest.mark.parametrize("method", list(FEW))
def test_every_call_of_a_calibration_says_where_it_stands(method):
    noise = 20 * torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Positional()
    settings = {"method": method, "held_out": 16, "batch_size": 8, **FEW[method]}
    told = ls.calibrate(ls.as_denoiser(model, SCHEDULE), noise, TABLE, **settings)
    untold = ls.calibrate(ls.as_denoiser(plain, SCHEDULE), noise, TABLE, **settings)
    assert told.table.rows == untold.table.rows
    np.testing.assert_array_equal(told.table.sigmas, untold.table.sigmas)
    assert told.card.calls == untold.card.calls == sum(count for _, _, count in model.asked)
    assert all((np.diff(ratios) < 0).all() for ratios, _, _ in model.asked)  # whole falling runs
    assert {ratios[0] for ratios, _, _ in model.asked} == {float(TABLE.sigmas[0])}


def test_a_run_from_the_middle_tells_the_levels_that_led_there():
    model = Positional()
    fine = ls.build("ddim", [1.0, 0.6, 0.2])
    led = Course(np.ones(2), np.array([9.0, 3.0]))
    ls.sample(ls.as_denoiser(model, SCHEDULE), torch.ones(2, 3), fine, before=led)
    assert model.asked == [((9.0, 3.0, 1.0, 0.6, 0.2), 2, 2), ((9.0, 3.0, 1.0, 0.6, 0.2), 3, 2)]


def test_a_flow_is_told_its_sigmas():
    seen = []

    class Flow:
        positional = True

        def at(self, times, ratios, k):
            seen.append((times.tolist(), ratios.tolist(), k))
            return lambda x, t: x

    sigmas = np.array([1.0, 0.5, 0.0])
    table = ls.build("ddim", sigmas, alphas=1 - sigmas)
    ls.sample(ls.as_denoiser(Flow(), ls.Schedule.flow(), "flow"), torch.ones(1, 2), table)
    assert seen == [([1000.0, 500.0], [1.0, 0.5, 0.0], 0), ([1000.0, 500.0], [1.0, 0.5, 0.0], 1)]


def test_a_course_through_a_level_has_a_call_there():
    course = Course.of(TABLE)
    same, k = course.through(1.0, float(TABLE.sigmas[2]))
    assert same is course
    assert k == 2
    other, k = course.through(1.0, 0.5)
    assert other.nfe == 5
    assert other.sigmas[k] == 0.5
    assert (np.diff(other.sigmas) < 0).all()
    assert np.array_equal(np.delete(other.sigmas, k), course.sigmas)
    assert course.on().nfe == 5
    assert course.on().sigmas[4] == TABLE.sigmas[4]


def test_networks_that_do_not_care_are_asked_as_they_are():
    denoiser = ls.as_denoiser(plain, SCHEDULE)
    for network in (denoiser, as_network(lambda x, sigma: x), in_batches(denoiser, 3)):
        assert network.at(Course.of(TABLE), 1) is network
        assert not network.positional
    assert in_batches(ls.as_denoiser(Positional(), SCHEDULE), 3).positional
