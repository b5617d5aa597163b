"""The command ``longstride show``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longstride.book import load_any
from longstride.cli.common import console, handled
from longstride.cli.options import Json
from longstride.cli.render import shown

__all__ = ["show"]


@handled
def show(
    card: Annotated[Path, typer.Argument(help="A card or a book written by longstride calibrate.", metavar="CARD")],
    as_json: Json = False,
) -> None:
    """Show a card: how good it is, the formula of every step, and its weights as a heatmap. Of a book, its settings."""
    loaded = load_any(card)
    if as_json:
        content: dict[str, Any] = json.loads(loaded.dumps())
        print(json.dumps(content))
    else:
        for part in shown(loaded):
            console.print(part)
