"""Metrics against closed forms; studies that never evaluate on calibration's noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import longstride as ls
from longstride.calibration.reference import errors
from longstride.evaluation import FeatureNet, FrechetSpace, frechet_distance
from longstride.evaluation.plots import comparison, picture_grid, to_pixels
from longstride.evaluation.study import Study, run_study, seed_range
from longstride.zoo import load_model


def standardised(count: int, dimensions: int, seed: int) -> torch.Tensor:
    """Samples with mean exactly 0 and covariance exactly the identity."""
    x = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T


def test_frechet_distance_of_gaussians_in_closed_form():
    """Of N(0, I) and N(m, s² I) in d dimensions it is |m|² + d (s - 1)²."""
    real, shifted = standardised(400, 6, 0), 1.5 * standardised(300, 6, 1) + 0.2
    assert frechet_distance(real, shifted) == pytest.approx(6 * (0.5**2 + 0.2**2), rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-6)


def test_projection_keeps_the_directions_of_largest_variance():
    features = standardised(200, 4, 2) * torch.tensor([0.1, 5.0, 1.0, 3.0], dtype=torch.float64)
    projected = FrechetSpace(features, 2).project(features)
    np.testing.assert_allclose(projected.std(0), [5.0, 3.0], rtol=1e-9)
    with pytest.raises(ls.InputError, match="do not span 5 dimensions"):
        FrechetSpace(features, 5)


def test_features_see_what_a_file_would_hold():
    net = FeatureNet()
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1
    features = net(images)
    assert features.shape == (3, net.dimensions)
    torch.testing.assert_close(net(images.expand(-1, 3, -1, -1)), features)
    torch.testing.assert_close(net(images + 1e-4 * torch.sign(images)), features, atol=0.3, rtol=0.1)
    torch.testing.assert_close(net(images * 0 + 7), net(images * 0 + 1))
    assert (features[0] - features[1]).norm() > 0.01 * features[0].norm()
    with pytest.raises(ls.InputError, match="expected pictures"):
        net(images[0])


def test_rmse_and_median_in_closed_form():
    target = torch.zeros(3, 1, 2, 2)
    samples = torch.stack([torch.full((1, 2, 2), v) for v in (0.1, 0.2, 2.0)])
    found = errors(samples, target)
    assert found.rmse == pytest.approx(((0.01 + 0.04 + 4) / 3) ** 0.5)
    assert found.median == pytest.approx(0.2)


def test_pixels_and_sheets(tmp_path):
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(5, 1, 1, 1)
    assert to_pixels(images)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    picture_grid(images.expand(-1, 1, 4, 6), tmp_path / "sheet.png", columns=3, scale=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 6 * 2, 2 * 4 * 2)
    comparison([("a", images[:2].expand(-1, 1, 8, 8)), ("b", images[3:].expand(-1, 1, 8, 8))], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        shades = {shade for _, shade in picture.convert("L").getcolors(1 << 16)}
    assert {0, 255} <= shades


def test_seeds_of_calibration_evaluation_and_teacher_never_meet():
    purposes = ("calibration", "evaluation", "teacher")
    ranges = sorted((seed_range(p, seed, 1_000_000) for p in purposes for seed in (0, 1, 7)), key=lambda r: r.start)
    assert all(len(r) == 1_000_000 for r in ranges)
    assert all(before.stop <= after.start for before, after in pairwise(ranges))
    with pytest.raises(ls.InputError, match="at most 1,000,000 samples"):
        seed_range("teacher", 0, 1_000_001)


def test_a_study_measures_what_it_says_on_the_bundled_model():
    study = Study(
        nfes=(4,), samples=6, batch_size=4, calibration_samples=4, substeps=2, reference_steps=8, dimensions=3
    )
    results, tables, calibrations = run_study(load_model("garments"), study)
    assert {row["solver"] for row in results["rows"]} == {name for name, _ in tables}
    assert all(table.nfe == nfe == 4 for (_, nfe), table in tables.items())
    model, seeds = load_model("garments"), seed_range("evaluation", 0, 6)
    noise, denoiser = model.noise(seeds, tables["ddim", 4].sigmas[0]), model.denoiser(seeds)
    target = ls.solve_reference(denoiser, noise, tables["ddim", 4], steps=8)
    for row in results["rows"]:
        by_hand = errors(ls.sample(denoiser, noise, tables[row["solver"], 4]), target.samples)
        assert row["rmse"] == pytest.approx(by_hand.rmse, rel=1e-4)
        assert row["median"] == pytest.approx(by_hand.median, rel=1e-4)
        assert row["fd"] > 0
    assert {key for key, calibration in calibrations.items() if calibration.calls > 0} == set(calibrations)
    with pytest.raises(ls.InputError, match="needs more than 3 samples"):
        run_study(model, Study(samples=3, dimensions=3))
