"""The robust loss: the integral of its weights, about the error where that is small, and plain squares as limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longstride.calibration.loss import Loss, relative_scales

INFINITE = float("inf")


def test_the_robust_mean_is_the_integral_of_its_weights():
    """d rho / d e = 1 / sqrt(1 + e / c²), rho(e) is about e for small e, and plain squares are its limit."""
    e, c2 = np.linspace(0, 50, 20001), 0.7
    weights = 1 / np.sqrt(1 + e / c2)
    integral = np.concatenate([[0], np.cumsum((weights[1:] + weights[:-1]) / 2 * np.diff(e))])
    loss = Loss(c2)
    np.testing.assert_allclose(loss.weight(e), weights, rtol=1e-12)
    np.testing.assert_allclose(loss.root_weight(torch.from_numpy(e)).square(), weights, rtol=1e-12)
    np.testing.assert_allclose(loss.value(e)[::400], integral[::400], atol=1e-5)
    assert loss.mean(e) == pytest.approx(float(loss.value(e).mean()), rel=1e-12)
    squared = np.array([1.0, 2.0, 9.0])
    assert Loss().mean(squared) == 4.0
    assert Loss(0.7).mean(np.array([1.0, INFINITE])) == Loss().mean(np.array([INFINITE])) == INFINITE
    assert Loss(1e9).mean(squared) == pytest.approx(4.0, rel=1e-6)


def test_the_scale_of_the_loss_is_a_multiple_of_the_median():
    squared = np.array([1.0, 2.0, 9.0])
    assert Loss.of(squared).c2 == 2.0
    assert Loss.of(squared, 3.0).c2 == 6.0
    assert Loss.of(squared, 0.0).c2 == Loss.of(np.array([0.0, 0.0, 1.0])).c2 == INFINITE


def test_several_sets_of_errors_are_compared_on_the_least_of_their_scales():
    """So that what is far off for the best of them is far off for all; perfect sets have no scale of their own."""
    small, large = np.array([0.5, 1.0, 4.0]), np.array([2.0, 3.0, 5.0])
    assert Loss.common([large, small]).c2 == Loss.common([small, large]).c2 == 1.0
    assert Loss.common([large, small], 2.0).c2 == 2.0
    assert Loss.common([large, np.zeros(3)]).c2 == 3.0
    assert Loss.common([large, small], 0.0).c2 == Loss.common([]).c2 == INFINITE


# Scales of errors


def test_errors_are_told_in_units_of_the_bases_between_a_floor_and_a_cap():
    base = np.array([1e-9, 0.5, 2.0, 4.0, 1e4])
    np.testing.assert_allclose(relative_scales(base, 0.1), [0.1, 0.25, 1.0, 2.0, 25.0])
    np.testing.assert_allclose(relative_scales(7 * base, 0.1), relative_scales(base, 0.1))


@pytest.mark.parametrize("base", [[0.0, 0.0, 1.0], [1.0, INFINITE, INFINITE]])
def test_without_a_typical_error_all_scales_are_one(base):
    assert relative_scales(np.array(base), 0.1).tolist() == [1.0] * 3


def test_a_sample_that_the_base_loses_has_the_largest_scale():
    assert relative_scales(np.array([1.0, 1.0, INFINITE, np.nan, 1.0])[[0, 1, 4, 2]], 0.1).tolist() == [1, 1, 1, 25]
