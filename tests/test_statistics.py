"""Statistics of pictures and sets whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.evaluation.statistics import (
    PICTURE_STATISTICS,
    density_coverage,
    picture_statistics,
    precision_recall,
)


def named(images: torch.Tensor) -> dict[str, np.ndarray]:
    return dict(zip(PICTURE_STATISTICS, picture_statistics(images).T, strict=True))


def test_flat_and_checkered_pictures():
    """A checkerboard of ±a: deviation a, differences 2a in both directions, Laplacian 8a."""
    board = 1 - 2.0 * (torch.arange(6)[:, None] + torch.arange(8)).remainder(2)
    found = named(torch.stack([0 * board + 0.3, 0.5 * board, board, 1.25 * board])[:, None].double())
    np.testing.assert_allclose(found["brightness"], [0.3, 0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(found["contrast"], [0, 0.5, 1, 1.25], atol=1e-15)
    np.testing.assert_allclose(found["sharpness"], 8 * np.array([0, 0.5, 1, 1.25]) ** 2, atol=1e-15)
    np.testing.assert_allclose(found["noise"], 64 * np.array([0, 0.5, 1, 1.25]) ** 2, atol=1e-15)
    np.testing.assert_array_equal(found["clipped"], [0, 0, 1, 1])
    np.testing.assert_array_equal(found["saturation"], 0)


def test_saturation_is_the_span_of_the_channels():
    left, right = torch.tensor([0.5, -0.25, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    image = torch.cat([left.view(1, 3, 1, 1).expand(1, 3, 4, 3), right.view(1, 3, 1, 1).expand(1, 3, 4, 1)], 3)
    found = named(image)
    np.testing.assert_allclose(found["saturation"], 0.75 * 3 / 4)
    np.testing.assert_allclose(found["clipped"], 1 / 4)
    # Each channel has a step of 1 - left after three quarters: variance 3/16 of its square.
    np.testing.assert_allclose(found["contrast"], np.sqrt(3 / 16 * np.mean([0.5**2, 1.25**2, 1.0])))
    washed = named(0.5 * image)
    np.testing.assert_allclose(washed["saturation"], 0.5 * found["saturation"])
    np.testing.assert_allclose(washed["contrast"], 0.5 * found["contrast"])


def test_a_ramp_has_no_laplacian():
    ramp = (
        0.1 * torch.arange(5.0, dtype=torch.float64)[:, None] - 0.2 * torch.arange(4.0, dtype=torch.float64)
    ).expand(2, 3, 5, 4)
    found = named(ramp)
    np.testing.assert_allclose(found["sharpness"], 0.1**2 + 0.2**2)
    np.testing.assert_allclose(found["noise"], 0, atol=1e-28)


def test_blur_lowers_sharpness_and_noise_by_the_known_factor():
    """(1/4, 1/2, 1/4) multiplies a wave of frequency w by (1 + cos w) / 2."""
    w = 2 * np.pi * 5 / 32
    wave = torch.sin(w * torch.arange(32, dtype=torch.float64) + 0.4).expand(1, 1, 7, 32)
    blurred = (wave.roll(1, 3) + 2 * wave + wave.roll(-1, 3)) / 4
    sharp, soft = named(wave), named(blurred)
    for name in ("sharpness", "noise"):
        np.testing.assert_allclose(soft[name], ((1 + np.cos(w)) / 2) ** 2 * sharp[name], rtol=1e-12)


def test_pictures_are_measured_one_by_one_and_latents_too():
    images = torch.randn(5, 4, 6, 7, generator=torch.Generator().manual_seed(0)).half()
    whole = picture_statistics(images)
    assert whole.shape == (5, 6)
    assert whole.dtype == np.float64
    np.testing.assert_array_equal(whole, np.concatenate([picture_statistics(each[None]) for each in images]))
    np.testing.assert_array_equal(named(images)["saturation"], 0)
    assert picture_statistics(images[:0]).shape == (0, 6)
    for wrong in (images[0], images[..., :2]):
        with pytest.raises(ls.InputError, match="3 x 3 pixels or more"):
            picture_statistics(wrong)


POINTS = np.random.default_rng(1).normal(size=(80, 3))


def test_equal_sets_are_dense_and_covered():
    assert density_coverage(POINTS, POINTS) == (1.0, 1.0)
    assert density_coverage(POINTS, POINTS[::-1].repeat(2, axis=0)) == (1.0, 1.0)
    assert precision_recall(POINTS, POINTS) == (1.0, 1.0)


def test_sets_far_apart_share_nothing():
    assert density_coverage(POINTS, POINTS + 100) == (0.0, 0.0)
    assert precision_recall(POINTS, POINTS + 100) == (0.0, 0.0)


def test_collapse_onto_one_point_is_seen():
    """Real points 0, 1, ..., 9 on a line with k = 2: inner radii 1, outer 2; at 0 only the ball of 0 reaches."""
    line = np.arange(10.0)[:, None]
    assert density_coverage(line, np.zeros((7, 1)), k=2) == (1 / 2, 1 / 10)
    assert density_coverage(line, np.full((7, 1), 4.5), k=2) == (2 / 2, 2 / 10)
    assert precision_recall(line, np.zeros((7, 1)), k=2) == (1.0, 1 / 10)
    assert precision_recall(line, np.concatenate([line, line + 50]), k=2) == (1 / 2, 1.0)


def test_blocks_do_not_change_the_answer(monkeypatch):
    fake = 1.5 * POINTS[:50] + 0.5
    whole = density_coverage(POINTS, fake), precision_recall(POINTS, fake)
    monkeypatch.setattr("longstride.evaluation.statistics.BLOCK", 7 * len(fake))
    assert (density_coverage(POINTS, fake), precision_recall(POINTS, fake)) == whole
    assert 0 < whole[1][0] < 1


def test_neighbourhoods_refuse_sets_that_are_too_small():
    with pytest.raises(ls.InputError, match="5 nearest neighbours need more than 5 points, got 5"):
        density_coverage(POINTS[:5], POINTS)
    with pytest.raises(ls.InputError, match="got 2"):
        precision_recall(POINTS, POINTS[:2])
    for other in (POINTS[:0], POINTS[:, :2], POINTS[0]):
        with pytest.raises(ls.InputError, match="two sets of coordinates"):
            density_coverage(POINTS, other)
