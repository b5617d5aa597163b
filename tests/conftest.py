"""Calibrations that several test modules look at, made once."""

from __future__ import annotations

import pytest
from problems import Mixture
from toy_books import FAST, Toy
from toy_fits import SIGMAS, networked, noise_of

import longstride as ls


@pytest.fixture(scope="session")
def found():
    """The default calibration of a mixture."""
    return ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), seed=0)


@pytest.fixture(scope="session")
def book() -> ls.CardBook:
    """Three numbers of calls, of which one is filled, at three guidance scales."""
    return ls.calibrate_book(Toy(), (3, 4, 5), (1.0, 2.0, 4.0), anchors=(3, 5), **FAST)


@pytest.fixture(scope="session")
def plain() -> ls.CardBook:
    """Two numbers of calls without guidance."""
    return ls.calibrate_book(Toy(), (3, 4), **{**FAST, "iterations": 1, "scouts": 1})
