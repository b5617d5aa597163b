"""``longstride sample``: the pictures that it draws, and one line for everything that is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_line import SMALL, error, run
from PIL import Image


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_sampling_with_a_book(model: Path, book: Path):
    options = ("--card", book, "--num", 2, "--json")
    entry = json.loads(run("sample", model, *options, "--nfe", 4, "--guidance", 4))
    assert (entry["solver"], entry["nfe"], "note" in entry) == ("gauss_newton", 8, False)
    outside = json.loads(run("sample", model, *options, "--nfe", 7, "--guidance", 4))
    assert outside["nfe"] == 14
    assert "7 network calls at guidance 4: not in this book" in outside["note"]
    between = json.loads(run("sample", model, *options, "--nfe", 5, "--guidance", 2))
    assert between["note"].startswith(("filled between guidance 1, 4", "5 network calls at guidance 2: not in"))


def test_a_book_needs_a_number_of_calls(model: Path, shared: Path, book: Path, card: Path):
    message = error("sample", model, "--card", book, "--num", 2)
    assert "is a book of 4, 5, 6 network calls at guidance 1, 4: say which with --nfe" in message
    assert "holds the guidance scales 1, 4: say which" in error("sample", model, "--card", book, "--nfe", 4)
    assert "is a card for 3 network calls, not 4" in error("sample", model, "--card", card, "--nfe", 4)
    assert "was calibrated on" in error("sample", shared / "b", "--card", book, "--nfe", 4, "--guidance", 4)


def test_a_sheet_of_pictures(model: Path, card: Path):
    made = json.loads(run("sample", model, "--card", card, "--num", 5, "--out", "new/sheet.png", "--json"))
    assert (made["solver"], made["nfe"], made["files"]) == ("iia_ddim", 3, ["new/sheet.png"])
    with Image.open("new/sheet.png") as sheet:
        assert sheet.size == (2 * 8 * 12, 3 * 8 * 12)  # 2 classes across, 5 pictures, each pixel 12 wide


def test_a_folder_of_pictures(shared: Path):
    made = json.loads(
        run("sample", shared / "plain", "--num", 3, "--out", "out", "--solver", "ipndm", "--nfe", 2, "--json")
    )
    assert sorted(made["files"]) == sorted(map(str, Path("out").iterdir()))
    assert len(made["files"]) == 3
    for file in made["files"]:
        with Image.open(file) as picture:
            assert picture.size == (8, 8)


def test_sampling_repeats_itself_and_batches_do_not_matter(model: Path):
    for name, options in (("a", ()), ("b", ("--batch-size", 2)), ("c", ("--seed", 1)), ("d", ("--label", 1))):
        run("sample", model, "--num", 4, "--nfe", 2, "--out", f"{name}.png", *options)
    a, b, c, d = (Path(f"{name}.png").read_bytes() for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_guided_pictures_count_both_calls(model: Path):
    assert json.loads(run("sample", model, "--num", 2, "--nfe", 3, "--guidance", 2, "--json"))["nfe"] == 6


def test_a_card_brings_its_guidance(model: Path):
    run("calibrate", model, *SMALL, "--guidance", 2)
    assert json.loads(run("sample", model, "--num", 2, "--card", "card.json", "--json"))["nfe"] == 6
    assert "at guidance 2.0, not 3.0" in error("sample", model, "--card", "card.json", "--guidance", 3)


def test_compare_draws_base_calibrated_and_converged(model: Path, card: Path):
    output = run("sample", model, "--card", card, "--num", 3, "--out", "both.png", "--compare")
    assert "IIA-DDIM" in output
    assert "distance to the converged solution" in output
    made = json.loads(run("sample", model, "--card", card, "--num", 3, "--out", "folder", "--compare", "--json"))
    assert made["files"] == ["folder/comparison.png"]
    assert all(math.isfinite(made["errors"][name]["rmse"]) for name in ("DDIM", "IIA-DDIM"))
    for file in ("both.png", "folder/comparison.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 100


def test_a_card_of_another_model_is_refused_unless_forced(shared: Path, card: Path):
    message = error("sample", shared / "b", "--card", card, "--num", 2)
    assert repr(str(shared / "a")) in message
    assert repr(str(shared / "b")) in message
    assert "--any-model" in message
    run("sample", shared / "b", "--card", card, "--num", 2, "--any-model")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--solver heun --nfe 3", "heun cannot spend exactly 3 network calls; 2 would work"),
        ("--label 2", "has classes 0 … 1, got label 2"),
        ("--label -1", "has classes 0 … 1, got label -1"),
        ("--label 99999999999999999999", "has classes 0 … 1, got label 99999999999999999999"),
        ("--card none.json", "cannot read card none.json: No such file"),
        ("--card {model}/model_index.json", "is no longstride card"),
    ],
)
def test_bad_options_of_sample(model: Path, options: str, expected: str):
    assert expected in error("sample", model, *options.format(model=model).split())


def test_a_label_for_a_model_without_classes(shared: Path):
    assert "has no classes, got label 0" in error("sample", shared / "plain", "--label", 0)
