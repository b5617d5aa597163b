"""What all modules share of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longstride.arrays import double, infinite_for_nan, weighted_quantile


def test_nan_is_the_worst_of_errors():
    squared = np.array([[0.0, np.nan], [np.inf, 2.0]])
    assert infinite_for_nan(squared).tolist() == [[0.0, np.inf], [np.inf, 2.0]]
    assert np.isnan(squared[0, 1])  # what was passed is as it was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_double_precision_holds_what_any_other_does(dtype):
    value = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert double(value).dtype == torch.float64
    assert torch.equal(double(value).to(dtype), value)


def test_a_quantile_with_equal_weights_is_the_plain_quantile():
    """And with others it is where the weights say: a value of most of the weight is the median."""
    values = np.random.default_rng(0).normal(size=31)
    for part in (0.0, 0.1, 0.5, 0.77, 1.0):
        assert weighted_quantile(values, part, np.full(31, 0.3)) == pytest.approx(np.quantile(values, part), rel=1e-12)
    heavy = np.where(values == values[7], 1e6, 1.0)
    assert weighted_quantile(values, 0.5, heavy) == pytest.approx(values[7], abs=1e-3)
    assert weighted_quantile(values[:1], 0.9, np.ones(1)) == values[0]
