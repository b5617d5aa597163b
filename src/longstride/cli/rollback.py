"""The command ``longstride rollback``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from longstride.cli.common import handled
from longstride.cli.options import Json, option
from longstride.history import roll_back

__all__ = ["rollback"]


@handled
def rollback(
    card: Annotated[Path, typer.Argument(help="A card that longstride recalibrate has replaced.", metavar="CARD")],
    to: Annotated[
        int | None, option("Entry of the history to bring back; default: the card before.", "N", min=1)
    ] = None,
    reason: Annotated[str, option("For the history.", "TEXT")] = "no reason given",
    as_json: Json = False,
) -> None:
    """Bring a former card back, to the byte. The present card goes into the history, so that nothing is lost.

    A second rollback goes one card further back. longstride show lists the history.
    """
    former = roll_back(card, to, reason)
    if as_json:
        print(json.dumps({"entry": former.number, "by": former.by, "until": former.until}))
    else:
        print(f"{card} holds the card of entry {former.number} again")
