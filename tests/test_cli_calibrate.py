"""``longstride calibrate``: the card or the book that it writes, and one line for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import FEW, SMALL, error, run
from tiny_models import save_tiny_model

import longstride as ls


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_calibrate_writes_a_card_that_fits_the_model(model: Path, card: Path):
    loaded = ls.load_card(card)
    assert (loaded.solver, loaded.base.name, loaded.nfe) == ("iia_ddim", "ddim", 3)
    loaded.check_model(ls.load_model(model).info())
    assert loaded.settings == {
        "directions": "differences", "r": 1, "substeps": 2, "fine": "base", "ridge": 1e-6, "stages": False,
        "trajectory": "calibrated", "samples": 4, "held_out": 2, "seed": 0
    }  # fmt: skip


def test_the_same_seed_gives_the_same_card(model: Path, card: Path):
    for name, seed in (("same", 0), ("other", 1)):
        run("calibrate", model, *SMALL, "--seed", seed, "--out", name)
    assert Path("same").read_bytes() == card.read_bytes()
    same, other = ls.load_card("same").table, ls.load_card("other").table
    assert same.distance(other) > 0


def test_calibrate_prints_its_card_as_json(model: Path):
    output = run("calibrate", model, *SMALL, "--out", "card.json", "--solver", "ipndm", "--guidance", 2, "--json")
    assert output == Path("card.json").read_text()
    assert json.loads(output)["model"]["guidance"] == 2.0


def test_calibrate_tells_costs_and_result(shared: Path):
    out = Path("[bold]:smile:.json")  # a name that looks like markup is a name
    output = run("calibrate", shared / "plain", *SMALL, "--final", "zero", "--out", out)
    assert "at most 36 network calls in samples" in output
    assert "whole trajectories on 2 held-out samples" in " ".join(output.split())
    assert f"card written to {out}" in output
    assert list(Path().iterdir()) == [out]


def test_by_default_everything_is_fitted_together(shared: Path):
    output = run("calibrate", shared / "plain", *FEW, "--nfe", 3, "--out", "new.json")
    assert "fitting 8 samples and holding out 8" in output
    loaded = ls.load_card("new.json")
    assert (loaded.method, loaded.solver, loaded.nfe) == ("gauss_newton", "gauss_newton", 3)
    assert (loaded.settings["samples"], loaded.settings["held_out"], loaded.settings["iterations"]) == (16, 8, 1)
    shown = " ".join(run("show", "new.json").split())
    assert all(word in shown for word in ("card: Gauss–Newton", "starts", "gain", "started from", "stopped: "))
    assert "accepted" in shown or "this card holds the base: " in shown


def test_a_rank_takes_fewer_calls_and_is_on_the_card(shared: Path):
    for name, options in (("exact.json", ()), ("rank.json", ("--rank", 1))):
        run("calibrate", shared / "plain", *FEW, "--nfe", 5, "--out", name, *options)
    exact, rough = ls.load_card("exact.json"), ls.load_card("rank.json")
    assert (exact.settings["rank"], rough.settings["rank"]) == (None, 1)
    assert rough.calls < exact.calls
    assert "method 'iia' does not know --rank" in error("calibrate", shared / "plain", "--method", "iia", "--rank", 2)


@pytest.mark.slow
def test_several_settings_make_one_book(book: Path):
    loaded = ls.load_book(book)
    assert (loaded.nfes, loaded.guidances) == ([4, 5, 6], [1.0, 4.0])
    output = run("show", book)
    assert all(word in output for word in ("card book", "guidance 1", "guidance 4", "base", "change"))
    assert json.loads(run("show", book, "--json")) == json.loads(book.read_text())


@pytest.mark.parametrize("text", ["8-4", "4-", "0-3", "4,,5", "4.5", "1-100000"])
def test_calls_that_cannot_be_read(model: Path, text: str):
    assert f"expected network calls such as 8, 4-20 or 4,6,8, got '{text}'" in error("calibrate", model, "--nfe", text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--guidance 8-1", "expected guidance scales such as"),
        ("--guidance much", "expected guidance scales such as"),
        ("--guidance 1,-3", "must be 0 or more"),
        ("--substeps 3", "method 'gauss_newton' does not know --substeps; of these options it takes --iterations"),
        ("--fine ddim --r 1 --directions split", "does not know --directions and --r and --fine"),
        ("--method iia --iterations 3 --window 2", "method 'iia' does not know --iterations and --window"),
        ("--method global --substeps 3", "of these options it takes --window, --ridge"),
        ("--method iia --nfe 3-4", "a book of several settings is made by method 'gauss_newton', not by 'iia'"),
        ("--solver unipc --nfe 3-4", "a book starts from every classical solver"),
    ],
)
def test_settings_that_a_method_does_not_have(model: Path, options: str, expected: str):
    assert expected in error("calibrate", model, *options.split())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--method iia_edn", "unknown method 'iia_edn': did you mean 'iia_edm'"),
        ("--method iia_edm --solver ddim", "iia_edm is for the base heun, not for 'ddim'; --method iia takes any"),
        ("--directions spilt", "unknown family of directions 'spilt': did you mean 'split'"),
        ("--r -1", "expected r >= 0"),
        ("--fine eulre", "unknown fine solver 'eulre'"),
        ("--final half", "unknown final level 'half'"),
        ("--ridge inf", "a finite ridge >= 0"),
        ("--batch 0", "Invalid value for '--batch'"),
        ("--out .", "cannot write .: it is a folder"),
        ("--out missing/card.json", "cannot write missing/card.json: No such file or directory"),
    ],
)
def test_bad_options_of_calibrate(model: Path, options: str, expected: str):
    assert expected in error("calibrate", model, *SMALL, *options.split())


def test_a_model_without_weights(tmp_path: Path):
    folder = save_tiny_model(tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "cannot load the unet" in error("calibrate", folder)


def test_an_existing_file_survives_an_error(model: Path):
    Path("card.json").write_text("mine")
    Path("card.json.probe").write_text("mine too")
    error("calibrate", model, "--solver", "unipcc")
    assert [Path(name).read_text() for name in ("card.json", "card.json.probe")] == ["mine", "mine too"]
