"""How much a table amplifies errors of a network: the closed form, for a linear network and for one that is blind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture, Point
from toy_fits import SIGMAS, noise_of

import longstride as ls
from longstride.calibration.acceptance.stability import EPSILON, gains, largest_weights
from longstride.table import Row


def gain(network, x, table):
    """Of all samples as one unit."""
    return float(np.sqrt(gains(network, x, table, [len(x)], [0])[0] / len(x)))


def sensitivity(table, slope):
    """Of the last state to an error of each output, for D = slope x: errors go through the calls behind them."""
    k, moved = table.nfe, np.zeros((table.nfe + 1, table.nfe))
    for row in range(1, k + 1):
        for j in range(row):
            moved[row] += table.b[row, j] * (slope * moved[j] + np.eye(k)[j])
    return float(np.linalg.norm(moved[k]))


@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc", "heun"])
def test_the_gain_of_a_linear_network_is_its_closed_form(solver):
    table = ls.build(solver, SIGMAS)
    x = SIGMAS[0] * torch.randn(20, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for slope in (0.0, 0.3, 0.9, -0.5):
        found = gain(lambda x, sigma, s=slope: s * x, x, table)
        assert found == pytest.approx(sensitivity(table, slope), rel=0.02)


def test_the_gain_of_a_network_that_does_not_look_is_the_norm_of_the_last_row():
    x = noise_of(20, size=5000)
    for solver in ("ddim", "ipndm", "unipc"):
        table = ls.build(solver, SIGMAS)
        norm = float(np.linalg.norm(table.b[-1]))
        assert gain(Point(), x, table) == pytest.approx(norm, rel=0.02)
        assert norm <= largest_weights(table) + 1e-12


def test_the_gain_is_that_of_its_own_errors_to_the_bit():
    """One call, so one error: the last state is off by b times what the generator gives."""
    table, x = ls.build("ddim", SIGMAS[[0, -1]]), noise_of(3, size=5)
    error = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    expected = float((table.b[1, 0] * error.double()).square().mean(1).sum())
    assert gains(Point(), x, table, [3], [7])[0] == pytest.approx(expected, rel=1e-9)
    assert gains(Point(), x, table, [3], [8])[0] != pytest.approx(expected, rel=1e-3)
    assert 0 < EPSILON < 0.01


def test_units_have_errors_of_their_own_whatever_batch_they_are_in():
    """The sums of two units in one batch are those of each alone, by its own seed."""
    table, x = ls.build("ipndm", SIGMAS), noise_of(7, size=5)
    together = gains(Mixture(), x, table, [3, 4], [5, 9])
    alone = [gains(Mixture(), part, table, [len(part)], [seed])[0] for part, seed in ((x[:3], 5), (x[3:], 9))]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_large_weights_of_opposite_signs_have_a_large_gain():
    base = ls.build("ddim", SIGMAS).unrolled()
    last = base.rows[-1]
    odd = Row(last.states, {**last.outputs, 0: last.outputs[0] + 50, 1: last.outputs[1] - 50})
    table = replace(base, rows=(*base.rows[:-1], odd), exact=False)
    x = noise_of(8, size=5)
    assert float((ls.sample(Point(), x, table) - ls.sample(Point(), x, base)).abs().max()) < 1e-9
    found = gain(Point(), x, table)
    assert found == pytest.approx(50 * np.sqrt(2), rel=0.3)
    assert largest_weights(table) > 100 > 2 > largest_weights(base)
