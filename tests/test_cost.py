"""What a calibration costs: samples of every step, and a bound on calls that is close enough to plan with."""

from __future__ import annotations

import pytest
from problems import Mixture
from toy_fits import SIGMAS, noise_of

import longstride as ls
from longstride.calibration.endpoint.cost import last_steps, most_calls, most_whole_fits, whole_fit_samples
from longstride.calibration.endpoint.settings import GaussNewtonSettings

UNGUARDED = {"guard_share": 0.0}


def test_the_calls_that_are_announced_are_an_upper_bound(found):
    """Close enough to plan with, whatever is fitted; a guard that needs no fresh samples costs less."""
    for options in (
        {},
        {"levels": False, "iterations": 2},
        {"scouts": 0, "scout_samples": 48},
        {"scout_samples": 8, "final_samples": 12},
        {"scout_samples": 64},
        {"iterations": 1},
        {"iterations": 3, "scouts": 1},
        {"window": 1},
        {"universal": False},
        {"iterations": 1, "guard_share": 0.03},
    ):
        nfe = 4 if not options else 5
        sigmas = ls.grid("karras", nfe, sigma_min=0.05, sigma_max=20.0)
        result = found if not options else ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", sigmas), **options)
        most, least = (
            most_calls(nfe, 48, 48, GaussNewtonSettings(**one)) for one in (options, {**options, **UNGUARDED})
        )
        assert 0.5 * least < result.calls <= most


@pytest.mark.parametrize(
    ("fitted", "sizes", "last"),
    [(512, [32, 48], 2), (96, [32, 48], 2), (40, [32, 40], 2), (32, [32], 3), (9, [9], 3)],
)
def test_the_last_steps_see_all_samples_however_many(fitted, sizes, last):
    """Whole fits see 48 at most; the one that is used takes all steps that are left on all samples."""
    settings = GaussNewtonSettings()
    assert (whole_fit_samples(fitted, settings), last_steps(fitted, settings)) == (sizes, last)
    more = GaussNewtonSettings(iterations=7)
    assert (whole_fit_samples(fitted, more), last_steps(fitted, more)) == (sizes, last + 3)


@pytest.mark.parametrize(("iterations", "sizes", "last"), [(1, [96], 0), (2, [48], 1), (3, [32, 48], 1)])
def test_the_last_step_sees_all_samples_however_few_steps_there_are(iterations, sizes, last):
    settings = GaussNewtonSettings(iterations=iterations)
    assert (whole_fit_samples(96, settings), last_steps(96, settings)) == (sizes, last)


@pytest.mark.parametrize("options", [{"scout_samples": 64}, {"final_samples": 8}])
def test_whole_fits_see_at_least_what_short_fits_do(options):
    settings = GaussNewtonSettings(**options)
    assert whole_fit_samples(96, settings) == [settings.scout_samples]
    assert all(1 <= most_whole_fits(nfe, 96, 48, settings) <= 3 for nfe in range(1, 21))
    assert min(most_calls(nfe, 96, 48, settings) for nfe in range(1, 21)) > 0
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", SIGMAS), **options)
    assert result.end.accepted


@pytest.mark.parametrize(("nfe", "count"), [(3, 3), (5, 3), (6, 2), (7, 2), (8, 1), (12, 1)])
def test_few_calls_pay_for_several_whole_fits(nfe, count):
    """On up to 48 samples, held out 48: a whole fit costs 2,300 more than its short one at 5 calls, 6,100 at 8."""

    def fits(**options):
        return most_whole_fits(nfe, 96, 48, GaussNewtonSettings(**options))

    assert fits(universal=False) == count
    assert fits(universal=False, final_calls=0) == 1
    assert fits(final_calls=10**7) == 3
    assert fits(scouts=0, final_calls=10**7) == 1
    assert fits() == fits(universal=True) == max(count, 2)
    assert most_whole_fits(nfe, 96, 48, GaussNewtonSettings(universal=True, scouts=0)) == 1
