"""Broken and hostile files of cards and books: each is read, or refused with one clear line."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.fuzzing import fuzz, read_whole, valid_files
from benchmarks.mutations import Mutator
from benchmarks.small_work import calibrated
from longstride.card import Card
from longstride.cli.beside import Beside
from longstride.cli.render import card_summary, shown
from longstride.report.card_page import render_cards
from longstride.report.comparison import Shown


def show(found):
    """What ``longstride show`` prints, and to where every character must go."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(*shown(found))
    console.file.getvalue().encode()


@pytest.fixture(scope="module")
def valid():
    return valid_files()


def test_valid_files_are_read(valid, tmp_path):
    for text in valid:
        (tmp_path / "x.json").write_text(text)
        assert read_whole(tmp_path / "x.json", show) == "read"


@pytest.mark.slow
def test_broken_files_are_read_or_refused_with_one_clear_line(valid, tmp_path):
    found = fuzz(tmp_path, valid, show, inputs=1000, seed=7)
    assert found.crashes == []
    assert found.kinds.total() == 1000
    assert found.ends["read"] > 50
    assert found.ends["refused"] > 500
    assert set(found.kinds) == {*Mutator(0, valid).in_json, *(f"bytes: {kind}" for kind in Mutator(0, valid).in_bytes)}


@pytest.mark.slow
def test_every_card_that_is_read_has_a_page_and_stands_beside_others(valid, tmp_path):
    """Whatever numbers and texts are in it."""
    whole, pages = calibrated(method="iia").card, []

    def page(found):
        if isinstance(found, Card):
            broken = Shown("broken", found)
            pages.append(render_cards([broken]).encode())
            Console(file=io.StringIO(), width=80).print(Beside([Shown("whole", whole), broken]))

    found = fuzz(tmp_path, valid, page, inputs=100, seed=7)
    assert found.crashes == []
    assert len(pages) > 3


def test_a_crash_would_be_seen(valid, tmp_path):
    """Of what is shown, of a file that is read: otherwise the counts above would mean nothing."""

    def broken(found):
        raise ZeroDivisionError("no")

    found = fuzz(tmp_path, valid, broken, inputs=60, seed=7)
    assert found.crashed == 60 - found.ends["refused"] > 0
    assert all("ZeroDivisionError: no" in crash for crash in found.crashes)
    assert len(list(tmp_path.glob("crash_*.json"))) == min(20, found.crashed)


@pytest.mark.parametrize("text", ["[/nope]", "[red]x", "\x1b[31mred", "\x1b]0;title\x07", "a\nb", "\ud800"])
def test_a_card_does_not_speak_to_the_terminal(text):
    card = calibrated(method="iia").card
    end = card.model_copy().end
    said = card.model_copy(
        update={"method": text, "solver": text, "model": card.model.model_copy(update={"name": text}), "steps": []}
    )
    said = said.model_copy(update={"base": said.base.model_copy(update={"name": text}), "end": end})
    console = Console(file=io.StringIO(), width=100)
    console.print(card_summary(said))
    written = console.file.getvalue()
    assert "\x1b" not in written
    assert text in written or text.encode("unicode_escape").decode() in written
