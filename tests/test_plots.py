"""Plots and sheets of pictures."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_models import save_tiny_model
from tiny_studies import SMALL

import longstride as ls
from longstride.evaluation import run_study
from longstride.evaluation.plots import comparison, effect_curves, picture_grid, to_pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ls.load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2))


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


def test_plots_show_every_family(model, tmp_path):
    results = run_study(model, SMALL).results
    effect_curves(results, tmp_path / "a.png", title="Tiny")
    effect_curves(results, tmp_path / "b.png", measures=("rmse",))
    with Image.open(tmp_path / "a.png") as both, Image.open(tmp_path / "b.png") as one:
        assert both.size[1] > 1.5 * one.size[1]
        assert both.size[0] == one.size[0]
