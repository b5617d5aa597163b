"""``longstride demo``: its folder, from the first file to the last."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_line import error, run
from PIL import Image

import longstride as ls
from longstride.evaluation import CONTESTANTS, load_results

DEMO = ("--samples", 6, "--calibration-samples", 4, "--substeps", 2, "--reference-steps", 6, "--dimensions", 2)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_demo(model: Path):
    printed = json.loads(run("demo", "--model", model, "--out", "out", *DEMO, "--json"))
    assert printed == json.loads(Path("out/results.json").read_text())
    results = load_results(Path("out/results.json"))
    names = ["ddim", "iia_ddim", "dpmpp_2m", "unipc3", "gauss_newton"]
    assert results.contestants == names
    assert results.nfes == [4, 6]
    for measure in ("rmse", "median", "fd_teacher", "contrast_ratio"):
        assert all(math.isfinite(results.value(name, nfe, measure).value) for name in names for nfe in results.nfes)
    assert results.about["model"]["fingerprint"] == ls.load_model(model).fingerprint
    cards = {file.stem: ls.load_card(file) for file in Path("out/cards").iterdir()}
    calibrated = [name for name in names if CONTESTANTS[name].method is not None]
    assert set(cards) == {f"{name}_nfe{nfe}" for name in calibrated for nfe in results.nfes}
    assert all(name == f"{card.solver}_nfe{card.nfe}" for name, card in cards.items())
    files = {"results.json", "results.parquet", "comparison.png", "error_vs_nfe.png", "cards"}
    assert {file.name for file in Path("out").iterdir()} == files
    for name in ("comparison.png", "error_vs_nfe.png"):
        with Image.open(f"out/{name}") as picture:
            assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--grid unifrom", "unknown grid 'unifrom'"),
        ("--dimensions 6", "needs more than 6 samples"),
        ("--model garment", "unknown model 'garment'"),
        ("--samples 1", "Invalid value for '--samples'"),
        ("--out {card}", "cannot write"),
        ("--out {card}/sub", "cannot write"),
    ],
)
def test_bad_options_of_demo(model: Path, card: Path, options: str, expected: str):
    assert expected in error("demo", "--model", model, *DEMO, *options.format(card=card).split())
