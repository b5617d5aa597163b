"""Least squares that is streamed: sums of parts are the whole, and the ridge is relative to what it pulls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longstride.calibration.normal_equations import NormalEquations, Pull


@pytest.mark.parametrize("entries", [5, 1000, 4096, 2**14])
def test_streamed_batches_solve_the_same_least_squares_problem(entries):
    """Of few entries, of many that are no multiple of what is held in float64 at once, and of such a multiple."""
    rng = np.random.default_rng(0)
    vectors, target = rng.normal(size=(3, 40, entries)), rng.normal(size=(40, entries))
    streamed = NormalEquations(3)
    for part in (slice(0, 7), slice(7, 30), slice(30, 40)):
        streamed.add([torch.from_numpy(v[part]) for v in vectors], torch.from_numpy(target[part]))
    expected, squares, *_ = np.linalg.lstsq(vectors.reshape(3, -1).T, target.ravel(), rcond=None)
    np.testing.assert_allclose(streamed.solve(0.0), expected, rtol=1e-12)
    assert streamed.mse(expected) == pytest.approx(squares[0] / (40 * entries), rel=1e-12)
    assert streamed.mse(np.zeros(3)) == pytest.approx((target**2).mean(), rel=1e-12)


def test_moved_equations_are_those_of_the_residual_that_is_left():
    rng = np.random.default_rng(1)
    vectors, target, beta = rng.normal(size=(3, 40)), rng.normal(size=40), rng.normal(size=3)
    equations, left = NormalEquations(3), NormalEquations(3)
    equations.add([torch.from_numpy(v) for v in vectors], torch.from_numpy(target))
    left.add([torch.from_numpy(v) for v in vectors], torch.from_numpy(target - beta @ vectors))
    np.testing.assert_allclose(equations.moved(beta).pack(), left.pack(), rtol=1e-11)
    # A ridge where nothing is away is the one of solve; one beyond all bounds goes where nothing is away.
    np.testing.assert_allclose(
        equations.pulled(Pull.plain(0.5, np.zeros(3))).solve(0.0), equations.solve(0.5), rtol=1e-11
    )
    np.testing.assert_allclose(equations.pulled(Pull.plain(1e12, beta)).solve(0.0), -beta, rtol=1e-9)


def test_the_ridge_pulls_towards_the_base_at_any_scale():
    direction, target = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
    for scale in (1e-3, 1.0, 1e3):
        equations = NormalEquations(1)
        equations.add([direction * scale], target)
        assert equations.solve(1.0)[0] * scale == pytest.approx(1.0)  # half of the least-squares answer 2


def test_repeated_and_empty_directions_are_harmless():
    v, empty, target = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([2.0, 4.0])
    equations = NormalEquations(3)
    equations.add([v, v, empty], target)
    np.testing.assert_allclose(equations.solve(0.0), [1.0, 1.0, 0.0], atol=1e-12)


def test_packed_equations_may_be_summed():
    rng = np.random.default_rng(1)
    vectors, target = torch.tensor(rng.normal(size=(3, 40))), torch.tensor(rng.normal(size=40))
    whole, packed = NormalEquations(3), np.zeros(3 * 3 + 3 + 2)
    whole.add(list(vectors), target)
    for part in (slice(0, 7), slice(7, 40)):
        equations = NormalEquations(3)
        equations.add([v[part] for v in vectors], target[part])
        packed += equations.pack()
    summed = NormalEquations.unpack(packed, 3)
    np.testing.assert_allclose(summed.solve(0.0), whole.solve(0.0), rtol=1e-12)
    assert summed.count == 40
    assert summed.mse(np.ones(3)) == pytest.approx(whole.mse(np.ones(3)), rel=1e-12)
