"""The page of cards in a browser: it loads nothing, fits every width, and axe finds nothing serious."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, Tab, opened_browser, serious_findings

import longstride as ls
from longstride.report.card_page import write_cards
from longstride.report.comparison import Shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(found: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one card, and of three: of another method and other calls, and one with a long name."""
    folder, steps = tmp_path_factory.mktemp("pages"), ls.load_card(shared / "card.json")
    cards = [Shown("a.json", found.card), Shown("some/folder/with_a_rather_long_name_of_a_card.json", steps)]
    pages = {"one": folder / "one.html", "three": folder / "three.html"}
    write_cards(cards[:1], pages["one"])
    write_cards([*cards, Shown("c.json", found.card)], pages["three"])
    return pages


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("name", ["one", "three"])
def test_every_width_holds_the_page(browser, pages, name: str, kind: str):
    with Tab(browser, pages[name], WIDTHS[kind]) as page:
        if kind == "print":
            page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        drawings = page.locator("figure svg")
        assert drawings.count() == {"one": 5, "three": 16}[name]
        assert all(box["width"] > 200 for box in (drawings.nth(n).bounding_box() for n in range(drawings.count())))


@pytest.mark.parametrize("name", ["one", "three"])
def test_nothing_serious_is_found_by_axe(browser, pages, name: str):
    with Tab(browser, pages[name]) as page:
        assert serious_findings(page) == []


def test_every_drawing_has_its_caption_as_its_name(browser, pages):
    with Tab(browser, pages["three"]) as page:
        names = page.evaluate(
            "[...document.querySelectorAll('figure svg')]"
            ".map(s => document.getElementById(s.getAttribute('aria-labelledby'))?.textContent ?? '')"
        )
        assert all(names)
