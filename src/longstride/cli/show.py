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
from longstride.cli.common import console, handled
from longstride.cli.options import Json
from longstride.cli.render import shown
from longstride.errors import one_line
from longstride.history import History, load_history

__all__ = ["show"]


@handled
def show(
    card: Annotated[Path, typer.Argument(help="A card or a book written by longstride calibrate.", metavar="CARD")],
    as_json: Json = False,
) -> None:
    """Show a card: how good it is, the formula of every step, its weights as a heatmap, and its history.

    Of a book, its settings.
    """
    loaded, history = load_any(card), load_history(card)
    if as_json:
        content: dict[str, Any] = json.loads(loaded.dumps())
        if history.entries:
            content["history"] = history.model_dump(mode="json")["entries"]
        print(json.dumps(content))
    else:
        for part in shown(loaded):
            console.print(part)
        if history.entries:
            console.print(_former(history))


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
