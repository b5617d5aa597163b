"""What all modules share of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longstride.arrays import double, infinite_for_nan


def test_nan_is_the_worst_of_errors():
    squared = np.array([[0.0, np.nan], [np.inf, 2.0]])
    assert infinite_for_nan(squared).tolist() == [[0.0, np.inf], [np.inf, 2.0]]
    assert np.isnan(squared[0, 1])  # what was passed is as it was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_double_precision_holds_what_any_other_does(dtype):
    value = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert double(value).dtype == torch.float64
    assert torch.equal(double(value).to(dtype), value)
