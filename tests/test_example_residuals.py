"""The three families of features in the examples are what their formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longstride as ls
from examples.residuals import edges, gradients, moments


def test_gradients_weigh_frequencies_by_their_squares():
    """Differences of a wave of frequency w along a row have 2 sin(w / 2) times its amplitude."""
    n = torch.arange(64, dtype=torch.float64)
    for waves in (2, 4, 8):
        picture = torch.sin(2 * torch.pi * waves * n / 64).expand(1, 1, 64, 64)
        across = gradients(picture)[0, : 63 * 63].reshape(63, 63) * 63
        w = 2 * torch.pi * waves / 64
        wanted = 2 * np.sin(w / 2) * torch.cos(w * (n[:63] + 0.5))
        torch.testing.assert_close(across[0], wanted)
        assert across.std(0).max() < 1e-12
        assert len(gradients(picture)[0]) == 2 * 63 * 63


def test_gradients_are_linear_and_see_no_level():
    x, y = torch.randn(2, 3, 2, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(gradients(x + 2 * y + 5), gradients(x) + 2 * gradients(y))


def test_moments_are_standard_deviations_of_windows():
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = moments(x)
    for size, part in ((2, found[:, :64]), (4, found[:, 64:80]), (8, found[:, 80:])):
        windows = x.unfold(2, size, size).unfold(3, size, size).flatten(4)
        wanted = (windows.var(-1, correction=0) + 1e-3).sqrt().flatten(1) / (16 / size)
        torch.testing.assert_close(part, wanted)
    torch.testing.assert_close(moments(7 - x), found)  # as much contrast, wherever it is
    flat = 300 + 1e-3 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    assert moments(flat).isfinite().all()  # squares are known to 0.01 there, in single precision


def test_edges_see_how_strong_a_gradient_is_and_not_its_sign():
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(edges(-x), edges(x))
    assert (edges(2 * x) > edges(x)).all()
    flat = torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(edges(flat), edges(3 * flat))


@pytest.mark.parametrize("features", [edges, gradients, moments])
@pytest.mark.parametrize("shape", [(2, 16), (2, 3, 16, 11)])
def test_what_is_beside_pixels_needs_pictures(features, shape):
    with pytest.raises(ls.InputError, match=f"residual '{features.__name__}' .* leave residual out"):
        features(torch.zeros(shape))
    assert features(torch.zeros(2, 3, 12, 12)).isfinite().all()
