"""Errors of tables: those of plain runs, measured once, and together where tables stand at the same levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import INFINITE, PIXELS, SIGMAS, exact, noise_of, samples_of, squared

import longstride as ls
from longstride.calibration.endpoint.measurements import Measurements
from longstride.calibration.endpoint.residuals import Residual
from longstride.parameters import Parameters

#: Units of the fitted samples.
FITTED = [0, 1, 2]


def halves(x):
    """Features: the first entries, halved."""
    return x[:, :3] / 2


@pytest.mark.parametrize("features", [None, halves])
@pytest.mark.parametrize("solver", ["ddim", "ipndm", "heun"])
def test_errors_are_those_of_plain_runs_and_are_measured_once(solver, features):
    """In whatever form a table comes: its own rows, or unrolled."""
    x, table = noise_of(40), ls.build(solver, SIGMAS[[0, 2, 4]] if solver == "heun" else SIGMAS)
    residual = PIXELS if features is None else Residual(features)
    measured = Measurements(samples_of(Mixture(), x, held_out=16, unit=8), Parameters(4), residual)
    for numbers, part in ((FITTED, slice(0, 24)), ([3, 4], slice(24, 40)), ([2], slice(16, 24))):
        found = measured.errors(table, numbers)
        np.testing.assert_allclose(found[:, 1], squared(Mixture(), table, x[part]), rtol=1e-9)
        off = ls.sample(Mixture(), x[part], table) - exact(Mixture(), x[part])
        beside = 0.0 if features is None else halves(off).square().sum(1).numpy()
        np.testing.assert_allclose(found[:, 0], found[:, 1] + beside, rtol=1e-9)
    np.testing.assert_allclose(measured.errors(table.unrolled(), [0, 3]), measured.errors(table, [0, 3]), rtol=0)
    assert measured.samples.ledger.calls == 40 * 4


@pytest.mark.parametrize("features", [None, halves])
def test_squared_residuals_are_told_in_units_of_scales_and_squared_errors_are_not(features):
    x, table, scales = noise_of(40), ls.build("ipndm", SIGMAS), np.geomspace(0.1, 25.0, 40)
    residual = PIXELS if features is None else Residual(features)
    samples = samples_of(Mixture(), x, held_out=16, unit=8)
    plain = Measurements(samples, Parameters(4), residual).errors(table, [1, 3])
    found = Measurements(samples, Parameters(4), residual, scales).errors(table, [1, 3])
    np.testing.assert_allclose(found[:, 0], plain[:, 0] / np.r_[scales[8:16], scales[24:32]], rtol=1e-12)
    np.testing.assert_array_equal(found[:, 1], plain[:, 1])


@pytest.mark.parametrize("value", [float("nan"), INFINITE, 1e200])
@pytest.mark.parametrize("features", [None, halves])
def test_what_is_not_finite_is_infinitely_wrong(features, value):
    """Of that sample alone; what is finite may have a square that is not."""
    x, table = noise_of(40), ls.build("ddim", SIGMAS)
    odd = float(x[5, 0])

    def broken(x, sigma):
        out = Mixture()(x, sigma)
        return torch.where(x[:, :1] == odd, value, out) if sigma == SIGMAS[0] else out

    residual = PIXELS if features is None else Residual(features)
    samples = samples_of(broken, x, exact(Mixture(), x), held_out=16, unit=8)
    found = Measurements(samples, Parameters(4), residual).errors(table, FITTED)
    assert np.isinf(found[5]).all()
    assert np.isfinite(np.delete(found, 5, 0)).all()


@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_tables_that_are_measured_together_have_the_errors_that_they_have_alone(batch_size):
    """In fewer launches where batches have room, and for as many calls in samples."""
    parameters, x = Parameters(4, column=True), noise_of(40)
    tables = [ls.build(solver, SIGMAS) for solver in ("ddim", "ipndm", "unipc", "dpmpp_2m")]
    tables.append(ls.build("ddim", ls.grid("log_snr", 4, sigma_min=0.05, sigma_max=10.0, final="sigma_min")))
    launches = {"alone": 0, "together": 0}

    def measured_by(key):
        def counted(x, sigma):
            launches[key] += 1
            assert len(x) <= batch_size
            return Mixture()(x, sigma)

        samples = samples_of(counted, x, exact(Mixture(), x), 16, unit=8, batch_size=batch_size)
        return Measurements(samples, parameters, PIXELS)

    alone, together = measured_by("alone"), measured_by("together")
    wanted = [alone.errors(table, FITTED) for table in tables]
    together.measure(tables, FITTED)
    assert together.samples.ledger.calls == alone.samples.ledger.calls == len(tables) * 24 * 4
    for table, errors in zip(tables, wanted, strict=True):
        np.testing.assert_allclose(together.errors(table, FITTED), errors, rtol=1e-12)
    assert together.samples.ledger.calls == alone.samples.ledger.calls
    assert (launches["together"] < launches["alone"]) == (batch_size > 8)
