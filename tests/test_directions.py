"""Directions are those that the paper names, built from a base table alone."""

from __future__ import annotations

import numpy as np

import longstride as ls
from longstride.calibration.rowwise.directions import differences, increments, split

SIGMAS = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def value(row, states, outputs):
    return sum(w * states[i] for i, w in row.states.items()) + sum(w * outputs[j] for j, w in row.outputs.items())


def test_differences_are_those_of_the_most_recent_gradients():
    ddim, spndm = ls.build("ddim", SIGMAS), ls.build("spndm", SIGMAS)
    assert list(differences(ddim, 1, 1)) == ["noise(0)"]
    assert list(differences(ddim, 3, 1)) == ["data(2) - data(1)", "noise(2) - noise(1)"]
    assert len(differences(ddim, 3, 5)) == 4
    # S-PNDM's first step ends at state 2 and has two gradients; its stage serves no later step.
    assert list(differences(spndm, 2, 1)) == ["data(1) - data(0)", "noise(1) - noise(0)"]
    assert list(differences(spndm, 3, 1)) == ["data(2) - data(0)", "noise(2) - noise(0)"]


def test_increments_and_split_of_heun_are_those_of_the_paper():
    """The gradient of a step is (d + d') / 2; its two parts are x - D and D - D~; Euler's last step has x - D alone."""
    sigmas = np.append(SIGMAS, 0.0)
    table = ls.build("heun", sigmas)
    assert table.nfe == 11
    rng = np.random.default_rng(2)
    x, d = rng.normal(size=(12, 4)), rng.normal(size=(12, 4))

    def mean_gradient(start):
        here = (x[start] - d[start]) / table.sigmas[start]
        ahead = (x[start + 1] - d[start + 1]) / table.sigmas[start + 1]
        return (here + ahead) / 2

    # x of a stage is Euler's in the formula, so it must be here.
    for start in range(0, 10, 2):
        width = table.sigmas[start + 1] - table.sigmas[start]
        x[start + 1] = x[start] + width * (x[start] - d[start]) / table.sigmas[start]
    found = increments(table, 6, 1)
    assert list(found) == ["gradient(4 -> 6)", "gradient(2 -> 4)"]
    for row, start in zip(found.values(), (4, 2), strict=True):
        np.testing.assert_allclose(value(row, x, d), mean_gradient(start), rtol=1e-12)
    parts = split(table, 6, 1)
    assert list(parts) == ["noise(4)", "data(4) - data(5)", "noise(2)", "data(2) - data(3)"]
    np.testing.assert_allclose(value(parts["noise(4)"], x, d), (x[4] - d[4]) / table.sigmas[4], rtol=1e-12)
    np.testing.assert_allclose(value(parts["data(2) - data(3)"], x, d), d[2] - d[3], rtol=1e-12)
    # Both parts span the increment: (x - D) / sigma_i + (D - D~) / (2 sigma_{i+1}).
    spanned = value(parts["noise(4)"], x, d) + value(parts["data(4) - data(5)"], x, d) / (2 * table.sigmas[5])
    np.testing.assert_allclose(spanned, mean_gradient(4), rtol=1e-12)
    # First step, predictor, last step.
    assert list(split(table, 2, 3)) == ["noise(0)", "data(0) - data(1)"]
    assert list(split(table, 5, 0)) == ["noise(4)"]
    assert list(split(table, 11, 0)) == ["noise(10)"]
    assert list(increments(table, 2, 3)) == ["gradient(0 -> 2)"]
