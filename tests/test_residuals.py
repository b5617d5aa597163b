"""What of samples is compared: pixels as mean squared errors, and features that weigh as much as these do."""

from __future__ import annotations

import pytest
import torch
from problems import Mixture
from toy_fits import SIGMAS, exact, noise_of, samples_of, with_targets

import longstride as ls
from examples.residuals import edges, gradients, moments
from longstride.calibration.endpoint.residuals import Residual, balanced, pixels

FEATURES = [edges, gradients, moments]


def test_every_residual_measures_pixels_as_mean_squared_errors():
    x, y = torch.randn(2, 5, 3, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for features in (pixels, *FEATURES):
        residual = Residual(features)
        flat = (residual(x) - residual(y))[:, : x[0].numel()]
        torch.testing.assert_close(flat.square().sum(1), (x - y).square().flatten(1).mean(1))


@pytest.mark.parametrize("features", FEATURES)
def test_what_is_beside_pixels_weighs_as_much_as_they_do_once_balanced(features):
    x, y = torch.randn(2, 5, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    residual = Residual(features).balanced(x, y)
    squared = (residual(x) - residual(y)).square()
    assert squared[:, :256].sum() == pytest.approx(float(squared[:, 256:].sum()))


def test_plain_pixels_are_no_features_and_stay_as_they_are():
    x, y = torch.randn(2, 5, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    residual = Residual()
    assert residual.plain
    assert residual.balanced(x, y) is residual
    assert residual(x).shape == (5, 256)
    assert (residual.name, Residual(edges).name) == ("pixels", "edges")
    assert not Residual(edges).plain


def test_a_residual_is_balanced_where_its_base_ends():
    """On a few fitted samples: at a base that is off, features weigh what pixels do; where nothing is off, 1."""

    def halves(x):
        return x[:, :3] / 7

    x, table = noise_of(40), ls.build("ddim", SIGMAS)
    samples = samples_of(Mixture(), x)
    residual = balanced(halves, samples, table)
    off = ls.sample(Mixture(), x[:16], table) - exact(Mixture(), x[:16])
    wanted = float((off.square().mean(1).sum() / halves(off).square().sum()).sqrt())
    assert residual.scale == pytest.approx(wanted, rel=1e-9)
    perfect = with_targets(samples, ls.sample(Mixture(), x, table))
    assert balanced(halves, perfect, table).scale == 1.0
    calls = samples.ledger.calls
    assert calls == perfect.ledger.calls  # of the two, which share a ledger
    assert calls == 2 * 16 * 4
    assert balanced(pixels, samples, table) == Residual()
    assert samples.ledger.calls == calls
