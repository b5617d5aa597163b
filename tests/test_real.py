"""Folders of real pictures as a yardstick."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_models import save_tiny_model
from tiny_studies import SMALL

import longstride as ls
from longstride.evaluation import run_study
from longstride.evaluation.real import real_pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ls.load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2))


def write_pictures(folder, count=12, size=8, mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{n:03d}.png")
    return folder


def test_a_folder_of_real_pictures_is_a_yardstick(model, tmp_path):
    real = real_pictures(write_pictures(tmp_path / "real"), model, "efficientnet-lite0", 3)
    real.save(tmp_path / "real.npz")
    loaded = real_pictures(tmp_path / "real.npz", model, "efficientnet-lite0", 3)
    assert loaded.digest == real.digest
    results = run_study(model, SMALL, real=real).results
    assert results.about["real"]["source"] == "6 pictures in real"
    assert {line.contestant for line in results.lines if line.measure == "fd_real"} == {
        *results.contestants,
        "teacher",
    }


def test_bad_real_pictures(model, tmp_path):
    def refused(path, message):
        with pytest.raises(ls.InputError, match=message):
            real_pictures(path, model, "efficientnet-lite0", 3)

    refused(write_pictures(tmp_path / "large", size=9), r"000.png is 9 × 9 pixels, but .* makes 8 × 8")
    refused(write_pictures(tmp_path / "few", count=2), "holds 2 pictures")
    (write_pictures(tmp_path / "broken") / "003.png").write_bytes(b"\x89PNG")
    refused(tmp_path / "broken", "cannot read picture .*003.png")
    refused(tmp_path / "nothing.npz", "nothing.npz")
    real = real_pictures(tmp_path / "broken" / ".." / "large", replace(model, shape=(1, 9, 9)), "efficientnet-lite0", 2)
    with pytest.raises(ls.InputError, match="have 2 dimensions, asked for 3"):
        run_study(model, SMALL, real=real)
