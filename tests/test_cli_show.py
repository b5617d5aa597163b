"""``longstride show``: cards side by side at every width, and a page of them."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, error, run
from rich.console import Console

import longstride as ls
from longstride.card_parts import TableData
from longstride.cli.beside import Beside, load_shown
from longstride.cli.render import shown
from longstride.history import replace_card
from longstride.report.card_page import MOST_CARDS, render_cards
from longstride.report.comparison import Shown, differences, sections
from longstride.report.formula import formula


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def others(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a card of the same model and calls, one of more calls, and one of another model."""
    folder = tmp_path_factory.mktemp("others")
    run("calibrate", shared / "a", *SMALL, "--solver", "dpmpp_2m", "--out", folder / "solver.json")
    run("calibrate", shared / "a", *SMALL[:2], "--nfe", "5", *SMALL[4:], "--out", folder / "calls.json")
    run("calibrate", shared / "b", *SMALL, "--out", folder / "card.json")
    return folder


def printed(*parts: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for part in parts:
        console.print(part)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_cards_stand_side_by_side(card: Path, others: Path):
    output = run("show", card, others / "solver.json")
    a, b = ls.load_card(card), ls.load_card(others / "solver.json")
    text = " ".join(output.split())
    for one in (a, b):
        held = one.end.calibrated if one.end.accepted else one.end.base
        assert f"{held.rmse:.4f}" in text
        assert f"{held.median:.4f}" in text
    assert "card.json solver.json" in text
    assert "level 3" in text
    assert "weights that differ most from those of card.json" in text


def test_the_weights_that_are_named_are_those_that_differ_most(card: Path, others: Path):
    a, b = (ls.load_card(file).table for file in (card, others / "solver.json"))
    forms = [np.column_stack([one.a, one.b])[1:] for one in (a, b)]
    apart = np.abs(forms[0] - forms[1])
    (part,) = [one for one in sections(load_shown([card, others / "solver.json"])) if "differ most" in one.title]
    found = []
    for line in part.lines:
        name, state = re.fullmatch(r"(x0|D\d) in x(\d)", line.name).groups()  # type: ignore[union-attr]
        cell = int(state) - 1, 0 if name == "x0" else int(name[1:]) + 1
        assert line.cells == tuple(f"{form[cell]:.4g}" for form in forms)
        found.append(apart[cell])
    assert found == sorted(apart.flatten(), reverse=True)[: len(found)]
    assert len(found) == min(5, np.count_nonzero(apart))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_line_fits_the_terminal(card: Path, others: Path, width: int):
    files = [card, others / "solver.json", others / "calls.json", others / "card.json"]
    lines = printed(Beside(load_shown(files)), width=width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)  # nothing is cut
    # As many cards stand together as fit.
    blocks = sum(line.startswith("method ") for line in lines)
    assert blocks == {60: 2, 80: 2, 120: 1}[width]
    for file in files:
        assert max(map(len, printed(*shown(ls.load_card(file)), width=width))) <= width


def test_what_may_not_be_compared_is_said(card: Path, others: Path):
    solver, calls, model = (others / name for name in ("solver.json", "calls.json", "card.json"))
    assert differences(load_shown([card, solver])) == []
    assert differences(load_shown([card, card])) == ["card.json and card.json are the same sampler."]
    (said,) = differences(load_shown([card, calls]))
    assert said == "card.json and calls.json make 3 and 5 network calls: their weights are not compared."
    (said,) = differences(load_shown([card, model]))
    assert re.search("are cards of different (models|weights).*: their errors say nothing about each other", said)
    output = " ".join(run("show", card, calls).split())
    assert "their weights are not compared" in output
    assert "level 5" in output


def changed(card: ls.Card, **model: object) -> ls.Card:
    return card.model_copy(update={"model": card.model.model_copy(update=model)})


def test_other_guidance_and_other_levels_are_said(card: Path):
    first = Shown("a", ls.load_card(card))
    guided = Shown("b", changed(first.card, guidance=3.0))
    assert differences([first, guided]) == [
        "a and b are the same sampler.",
        "a and b are cards of different guidance, none and 3: their errors say nothing about each other.",
    ]
    far = first.card.table.rescaled(np.full(4, 4.0))
    other = Shown("c", first.card.model_copy(update={"data": TableData.of(far)}))
    said = " ".join(differences([first, other]))
    assert "start at different noise levels" in said
    assert "different scales, alpha = 1 and a scale of its own" in said


def test_files_of_one_name_are_told_apart(card: Path, others: Path):
    names = [one.name for one in load_shown([card, others / "card.json"])]
    assert names == [f"{card.parent.name}/card.json", f"{others.name}/card.json"]


def test_a_book_stands_for_its_cards(book: Path, card: Path):
    found = load_shown([card, book])
    loaded = ls.load_book(book)
    assert [one.card for one in found] == [ls.load_card(card), *(entry.card for entry in loaded.entries)]
    assert found[1].name == "book.json: 4, 1"
    assert max(map(len, printed(Beside(found)))) <= 80


def test_json_of_several_is_a_list(card: Path, others: Path):
    files = [card, others / "solver.json"]
    assert json.loads(run("show", *files, "--json")) == [json.loads(file.read_text()) for file in files]
    assert json.loads(run("show", card, "--json")) == json.loads(card.read_text())


# The page


def test_a_page_holds_the_formulas_and_the_errors_of_every_card(card: Path, others: Path):
    files = [card, others / "solver.json"]
    assert run("show", *files, "--html", "out.html") == "wrote out.html\n"
    page = Path("out.html").read_text()
    text = " ".join(re.sub("<[^>]+>", "", page.split("</style>", 1)[1]).split())
    for file in files:
        loaded = ls.load_card(file)
        assert file.name in text
        for row in loaded.table.rows:
            assert formula(row).replace("-", "−") in text
        for errors in (loaded.end.base, loaded.end.calibrated):
            assert f"{errors.rmse:.4f}" in text
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not re.search(r'(src|href)="(?!#)', page.replace('xmlns:xlink="http', ""))
    assert len(page) < 1_000_000


def test_a_page_tells_the_history(card: Path):
    Path("card.json").write_bytes(card.read_bytes())
    loaded = ls.load_card("card.json")
    replace_card("card.json", loaded, loaded.model_copy(update={"calls": 7}), "recalibrated", "odd <colours>")
    run("show", "card.json", "--html", "out.html")
    page = Path("out.html").read_text()
    assert "former cards of this file" in page
    assert "odd &lt;colours&gt;" in page


def test_a_card_cannot_write_into_its_page(card: Path):
    text = "<script>alert(1)</script>\ud800"
    hostile = changed(ls.load_card(card), name=text).model_copy(update={"method": text, "settings": {"a": text}})
    page = render_cards([Shown("<b>", hostile)])
    assert "<script" not in page
    assert "<b>" not in page
    page.encode()


def test_a_page_that_cannot_be_made_leaves_nothing_behind(card: Path, monkeypatch: pytest.MonkeyPatch):
    Path("mine.json").write_bytes(card.read_bytes())
    assert "mine.json is a card: name another file" in error("show", "mine.json", "--html", "mine.json")
    assert "give one of them" in error("show", card, "--json", "--html", "out.html")
    assert "cannot write" in error("show", card, "--html", "no/out.html")
    assert "no.json" in error("show", card, "no.json", "--html", "out.html")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "pip install 'longstride[report]'" in error("show", card, "--html", "out.html")
    assert run("show", card, card)  # the terminal needs no extra


def test_a_page_holds_so_many_cards(card: Path):
    loaded = Shown("a", ls.load_card(card))
    with pytest.raises(ls.InputError, match="a page holds at most 32"):
        render_cards([loaded] * (MOST_CARDS + 1))
