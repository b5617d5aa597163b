"""``longstride evaluate``: results that go on where they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import error, run

import longstride as ls
from longstride.evaluation import load_results

EVALUATE = (
    "--nfe",
    "3,4",
    "--samples",
    6,
    "--calibration-samples",
    4,
    "--substeps",
    2,
    "--reference-steps",
    6,
    "--dimensions",
    2,
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_evaluate_goes_on_where_it_was(model: Path, card: Path):
    options = (*EVALUATE, "--batch-size", 2, "--card", card)
    printed = json.loads(run("evaluate", model, *options, "--solvers", "iia_edm,iia_dpmpp_2m", "--json"))
    results = load_results(Path("evaluation/results.json"))
    assert printed == json.loads(Path("evaluation/results.json").read_text())
    assert results.contestants == ["heun", "iia_edm", "dpmpp_2m", "iia_dpmpp_2m", "card (base)", "card"]
    assert (results.value("heun", 2, "rmse"), results.value("heun", 3, "rmse")) != (None, None)
    parts = {file: file.stat().st_mtime_ns for file in Path("evaluation/work").rglob("*.npz")}
    run("evaluate", model, *options, "--solvers", "iia_edm,iia_dpmpp_2m,unipc")
    again = load_results(Path("evaluation/results.json"))
    assert set(results.lines) <= set(again.lines)
    assert again.contestants[-3:] == ["unipc", "card (base)", "card"]
    assert {file: file.stat().st_mtime_ns for file in parts} == parts


def test_evaluate_measures_the_entries_of_a_book(model: Path, book: Path):
    """All of one guidance scale, or those at the numbers of calls that others are measured at."""
    options = (*EVALUATE, "--guidance", 4, "--dimensions", 0)
    run("evaluate", model, *options, "--card", book, "--solvers", "")
    results = load_results(Path("evaluation/results.json"))
    name = book.stem
    assert (results.contestants, results.nfes) == ([f"{name} (base)", name], [4, 5, 6])
    for entry in ls.load_book(book).entries:
        same = entry.card.table.distance(entry.card.base_table) == 0
        if entry.guidance == 4:
            assert (results.value(name, entry.nfe, "rmse").change == 0) is same
    run("evaluate", model, *options, "--card", book, "--solvers", "ddim", "--nfe", "4,7", "--out", "other")
    results = load_results(Path("other/results.json"))
    assert [nfe for nfe in (4, 5, 6, 7) if results.value(name, nfe, "rmse")] == [4]
    message = error("evaluate", model, *options, "--card", book, "--solvers", "ddim", "--nfe", "7,8")
    assert "holds 4, 5, 6 network calls at guidance 1, 4, and nothing at guidance 4 with 7, 8 network" in message
    assert "and nothing without guidance: choose" in error("evaluate", model, *EVALUATE, "--card", book)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--nfe 5,x", "expected numbers of network calls with commas"),
        ("--solvers ddmi", "unknown contestant 'ddmi': did you mean 'ddim'"),
        ("--solvers ,", "needs a contestant or a card"),
        ("--features vgg --solvers ddim", "unknown features 'vgg'"),
        ("--final half", "unknown final level 'half'"),
        ("--card none.json", "cannot read card none.json"),
        ("--solvers ddim --real none.npz", "cannot read none.npz"),
        ("--out {card}/sub", "cannot write"),
    ],
)
def test_bad_options_of_evaluate(model: Path, card: Path, options: str, expected: str):
    assert expected in error("evaluate", model, *EVALUATE, *options.format(card=card).split())
