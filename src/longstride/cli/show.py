"""The command ``longstride show``."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from longstride.book import load_any
from longstride.cli.beside import Beside, load_shown
from longstride.cli.common import console, handled
from longstride.cli.options import Json, option
from longstride.cli.render import shown
from longstride.errors import InputError, one_line
from longstride.files import check_writable
from longstride.history import History, load_history
from longstride.report.card_page import write_cards

__all__ = ["show"]


@handled
def show(
    cards: Annotated[
        list[Path],
        typer.Argument(
            help="Cards or books written by longstride calibrate; several: side by side.", metavar="CARD..."
        ),
    ],
    html: Annotated[Path | None, option("Write a page with pictures here.", "FILE.html")] = None,
    as_json: Json = False,
) -> None:
    """Show a card: how good it is, the formula of every step, its weights as a heatmap, and its history.

    Of a book, its settings. Several cards stand side by side, with what differs between them. With --html all of it
    becomes one file with pictures, which loads nothing when it is opened.
    """
    if html is not None:
        if as_json:
            raise InputError("--html writes a page and --json prints the cards: give one of them")
        if any(html.absolute() == card.absolute() for card in cards):
            raise InputError(f"{html} is a card: name another file for the page")
        check_writable(html)
        write_cards(load_shown(cards), html)
        console.print(f"wrote {html}", highlight=False, markup=False, soft_wrap=True)
    elif as_json:
        found = [_content(card) for card in cards]
        print(json.dumps(found if len(cards) > 1 else found[0]))
    elif len(cards) > 1:
        console.print(Beside(load_shown(cards)))
    else:
        for part in shown(load_any(cards[0])):
            console.print(part)
        if (history := load_history(cards[0])).entries:
            console.print(_former(history))


def _content(card: Path) -> dict[str, Any]:
    """A card or a book as JSON, with its history."""
    content: dict[str, Any] = json.loads(load_any(card).dumps())
    if (history := load_history(card)).entries:
        content["history"] = history.model_dump(mode="json")["entries"]
    return content


def _former(history: History) -> Table:
    """The cards that were in the file before, and what took their place."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="history: former cards", title_justify="left")
    for name in ("entry", "until", "then", "its RMSE", "of the next", "reason"):
        table.add_column(name, justify="right" if name in ("entry", "its RMSE", "of the next") else "left")
    previous = history.previous
    for one in history.entries:
        after = one.errors.get("base" if one.by == "base" else "fitted")
        rmse = ["" if found is None else f"{found.rmse:.4g}" for found in (one.errors.get("card"), after)]
        then = one.by if one.to is None else f"{one.by} to {one.to}"
        when = datetime.fromtimestamp(one.until).astimezone().isoformat(" ", "minutes")
        style = "bold" if previous is not None and one.number == previous.number else ""
        table.add_row(str(one.number), when, then, *rmse, Text(one_line(one.reason)), style=style)
    return table
