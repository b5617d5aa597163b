"""Fréchet distances against closed forms and torchmetrics; moments that merge like sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.evaluation.frechet import FeatureSpace, Moments, frechet_distance


def standardised(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Samples with mean exactly 0 and covariance exactly the identity."""
    x = np.random.default_rng(seed).normal(size=(count, dimensions))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (count - 1))).T


def rotation(dimensions: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))[0]


def test_distance_of_isotropic_gaussians_in_closed_form():
    """Of N(0, I) and N(m, s² I) in d dimensions it is |m|² + d (s - 1)²."""
    real, shifted = Moments.of(standardised(400, 6, 0)), Moments.of(1.5 * standardised(300, 6, 1) + 0.2)
    assert frechet_distance(real, shifted) == pytest.approx(6 * (0.5**2 + 0.2**2), rel=1e-12)
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-12)


def test_distance_of_commuting_covariances_in_closed_form():
    """With common axes it is the sum of squared differences of the deviations, over seven orders of magnitude."""
    axes, a, b = rotation(5, 2), np.geomspace(1e-6, 10, 5), np.array([3.0, 1.0, 0.5, 2.0, 1e-5])
    left, right = standardised(60, 5, 3) * a @ axes, standardised(50, 5, 4) * b @ axes
    assert frechet_distance(Moments.of(left), Moments.of(right)) == pytest.approx(((a - b) ** 2).sum(), rel=1e-9)


def test_distance_does_not_need_full_rank():
    """A flat set and a full one; a set and itself, with fewer samples than dimensions; a single repeated point."""
    axes, flat = rotation(6, 5), np.array([2.0, 1.0, 0.5, 0, 0, 0])
    full = Moments.of(standardised(40, 6, 6) @ axes)
    low = Moments.of(standardised(30, 6, 7) * flat @ axes)
    assert frechet_distance(low, full) == pytest.approx(((flat - 1) ** 2).sum(), rel=1e-12)
    assert frechet_distance(full, low) == pytest.approx(frechet_distance(low, full), rel=1e-12)
    few = Moments.of(np.random.default_rng(8).normal(size=(4, 20)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-12)
    point = Moments.of(np.zeros((3, 6)))
    assert frechet_distance(point, full) == pytest.approx(6, rel=1e-12)


def test_distance_equals_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Coordinates(torch.nn.Module):
        num_features = 8

        def forward(self, x):
            return x

    draw = np.random.default_rng(9)
    real, fake = draw.normal(size=(200, 8)) @ draw.normal(size=(8, 8)), draw.normal(size=(150, 8)) + 0.3
    metric = FrechetInceptionDistance(feature=Coordinates()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    assert frechet_distance(Moments.of(real), Moments.of(fake)) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_moments_are_numpys_and_merge_like_sums():
    x = np.random.default_rng(10).normal(size=(100, 4)) * [1, 2, 3, 4]
    whole, parts = Moments.of(x), Moments(4)
    for part in np.split(x, [1, 1, 40]):  # an empty one too
        parts.add(part)
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-12, atol=1e-14)
    for merged in (parts, Moments.of(x[:30]) + Moments.of(x[30:]), Moments(4) + whole):
        assert merged.count == 100
        np.testing.assert_allclose(merged.pack(), whole.pack(), rtol=1e-13, atol=1e-12)
    again = Moments.unpack(whole.pack(), 4)
    assert np.array_equal(again.pack(), whole.pack())
    before = whole.pack()
    again.add(x)
    assert np.array_equal(whole.pack(), before)


def test_moments_and_distances_refuse_what_they_cannot_hold():
    two = Moments.of(np.eye(2))
    with pytest.raises(ls.InputError, match=r"expected coordinates \(N, 2\), got \(3, 4\)"):
        two.add(np.ones((3, 4)))
    with pytest.raises(ls.InputError, match="NaN or infinity"):
        two.add(np.array([[1.0, np.nan]]))
    assert two.count == 2
    with pytest.raises(ls.InputError, match="2 and 3 dimensions"):
        frechet_distance(two, Moments.of(np.eye(3)))
    with pytest.raises(ls.InputError, match="two samples on each side, got 2 and 1"):
        frechet_distance(two, Moments.of(np.eye(2)[:1]))
    with pytest.raises(ls.InputError, match="are 13 numbers"):
        Moments.unpack(two.pack(), 3)
    for first in (-1.0, 1.5, np.nan):
        with pytest.raises(ls.InputError, match="begin with a number of samples"):
            Moments.unpack(np.array([first, *two.pack()[1:]]), 2)


@pytest.mark.parametrize("count", [4, 200], ids=["fewer samples than features", "more"])
def test_projection_keeps_the_directions_of_largest_variance(count):
    scales = np.concatenate([[0.1, 5.0, 1.0, 3.0][: count - 1], np.zeros(3)])
    x = standardised(count, min(count - 1, 4), 11)
    x = np.pad(x, ((0, 0), (0, len(scales) - x.shape[1]))) * scales @ rotation(len(scales), 12) + 7
    features = torch.from_numpy(x)
    space = FeatureSpace.fit(features, 2, "efficientnet-lite0")
    expected = np.sort(scales)[::-1][:2]
    np.testing.assert_allclose(space.project(features).std(0, ddof=1), expected, rtol=1e-9)
    np.testing.assert_allclose(space.project(features).mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(space.axes.T @ space.axes, np.eye(2), atol=1e-12)
    assert (space.dimensions, space.features) == (2, "efficientnet-lite0")


def test_a_space_refuses_more_dimensions_than_samples_span_and_other_features():
    features = torch.from_numpy(standardised(5, 4, 13))
    with pytest.raises(ls.InputError, match="5 samples do not span 5 dimensions"):
        FeatureSpace.fit(features, 5, "inception")
    with pytest.raises(ls.InputError, match=r"expected inception features \(N, 4\), got \(2, 3\)"):
        FeatureSpace.fit(features, 2, "inception").project(torch.zeros(2, 3))
