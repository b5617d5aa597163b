"""Settings of the default calibration, as documented."""

from __future__ import annotations

import pytest
from toy_fits import SIGMAS

import longstride as ls
from longstride.calibration.endpoint.fits import Fit
from longstride.calibration.endpoint.settings import GaussNewtonSettings, fitted_samples


def test_more_samples_are_fitted_at_few_calls():
    assert [fitted_samples(nfe) for nfe in (1, 5, 6, 7, 8, 20)] == [128, 128, 128, 96, 96, 96]


def test_settings_have_the_documented_defaults():
    settings = GaussNewtonSettings()
    assert settings.margin == 0.0  # nothing may get worse unless that is asked for
    assert settings.stability > 1
    assert Fit(ls.build("ddim", SIGMAS), (), "").iterations == ()


def test_a_gate_that_asks_for_less_than_an_even_chance_is_refused():
    for confidence in (0.49, 1.0, float("nan")):
        with pytest.raises(ls.InputError, match=r"a confidence of at least 0.5 and below 1, got"):
            GaussNewtonSettings(confidence=confidence)
    with pytest.raises(ls.InputError, match=r"finite robust, guard_robust, ridge, prior and margin >= 0"):
        GaussNewtonSettings(prior=-1.0)
