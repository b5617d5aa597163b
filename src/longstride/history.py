"""The history of a card: every card that its file has held before, beside the file, in ``NAME.history``.

A card is replaced in two steps: first the former card goes into the history, then the new card takes the place of the
file. Each file is written whole or not at all. After a kill between the two steps the last entry is the card that is
still in use; it is dropped when the history is read. So no moment loses a card.

An entry holds the card as it was in its file. A rollback restores that file: digests of files agree again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from longstride import documents
from longstride.card import Card, parse_card
from longstride.card_parts import Part
from longstride.errors import CardError, InputError
from longstride.files import locked, write_atomically
from longstride.reports import Errors
from longstride.version import __version__

__all__ = ["HISTORY_VERSION", "By", "Former", "History", "history_file", "load_history", "replace_card", "roll_back"]

#: Version of the format; a history with a higher one was written by a newer longstride.
HISTORY_VERSION = 1
#: What took the place of a card.
By = Literal["recalibrated", "adapted", "base", "rolled back"]


class Former(Part):
    """A card that was replaced.

    Attributes:
        number: Number of the entry, from 1.
        until: What the clock said when the card was replaced, in seconds since 1970.
        by: What took its place: a recalibrated or adapted card, its base, or an earlier card.
        reason: Why.
        errors: Errors on the held-out samples of that time: of the card, the fitted table and the base; what was not
            measured, or not finite, is left out.
        to: Number of the entry that was brought back, or None.
        card: The card, as it was in its file.
    """

    number: int
    until: Annotated[float, Field(ge=0, le=2.5e11)]
    by: By
    reason: str
    errors: dict[str, Errors] = Field(default_factory=dict)
    to: int | None = None
    card: dict[str, Any]

    def parsed(self, where: str | Path) -> Card:
        """The card itself; ``where`` names the file for messages.

        Raises:
            CardError: it is no valid card.
        """
        return parse_card(self.card, f"{where}, entry {self.number}")


class History(documents.Document):
    """All former cards of a file.

    Attributes:
        format: Always ``"longstride-history"``.
        version: Version of the format.
        longstride: Version of the package that wrote it.
        entries: From the first to the last.
    """

    format: Literal["longstride-history"] = "longstride-history"
    version: int = HISTORY_VERSION
    longstride: str = __version__
    entries: tuple[Former, ...] = ()

    @property
    def previous(self) -> Former | None:
        """The card that a rollback brings back; None if there is none.

        A rollback goes one card back, and the next rollback goes one card further.
        """
        before: list[int] = []
        for entry in self.entries:
            if entry.to in before:
                before = before[: before.index(entry.to)]
            else:
                before.append(entry.number)
        return self.entries[before[-1] - 1] if before else None

    def entry(self, number: int) -> Former:
        """The entry with a number.

        Raises:
            InputError: there is no such entry.
        """
        if not 1 <= number <= len(self.entries):
            raise InputError(
                f"the history has entries 1 … {len(self.entries)}, not {number}: longstride show lists them"
            )
        return self.entries[number - 1]

    def after(self, former: Mapping[str, Any], **told: Any) -> History:
        """The history with one more entry; ``told`` are further fields of :class:`Former`."""
        made = Former(number=len(self.entries) + 1, until=time.time(), card=dict(former), **told)
        return self.model_copy(update={"entries": (*self.entries, made), "longstride": __version__})


def history_file(path: str | Path) -> Path:
    """Where the history of the card at ``path`` is."""
    path = Path(path)
    return path.with_name(f"{path.name}.history")


def load_history(path: str | Path) -> History:
    """The history of the card at ``path``; empty if there is none.

    Raises:
        CardError: the history was edited, cut short, damaged, or written by a newer longstride.
    """
    file = history_file(path)
    if not file.exists():
        return History()
    found = documents.parse(documents.read_json(file, "history"), file, History, "history", HISTORY_VERSION)
    if [entry.number for entry in found.entries] != list(range(1, len(found.entries) + 1)):
        raise CardError(f"{file} is no usable history: its entries are not numbered from 1")
    if found.entries and Path(path).exists() and found.entries[-1].card == documents.read_json(path):
        found = found.model_copy(update={"entries": found.entries[:-1]})  # a replacement that was cut short
    return found


def replace_card(
    path: str | Path,
    old: Card,
    new: Card,
    by: By,
    reason: str,
    errors: Mapping[str, Errors] | None = None,
    *,
    out: str | Path | None = None,
) -> None:
    """Put ``new`` in the place of the card ``old`` at ``path``, which goes into the history.

    Args:
        path: File of the card.
        old: The card that was read from it.
        new: The card to write.
        by: What ``new`` is.
        reason: Why it takes the place.
        errors: For the history.
        out: Another file for the new card and its history; the file at ``path`` then stays.

    Raises:
        InputError: the file has changed since it was read, or cannot be written.
        CardError: the history cannot be read.
    """
    finite = {key: one for key, one in (errors or {}).items() if _is_finite(one)}
    target = Path(path if out is None else out)
    with locked(target.parent):
        raw = documents.read_json(path)
        if parse_card(raw, path) != old:
            raise InputError(f"{path} was changed by another process meanwhile: nothing was written, try again")
        history = load_history(path).after(raw, by=by, reason=reason, errors=finite)
        history.save(history_file(target))
        new.save(target)


def roll_back(path: str | Path, to: int | None = None, reason: str = "no reason given") -> Former:
    """Bring a former card back, and put the present card into the history.

    Args:
        path: File of the card.
        to: Number of the entry to bring back; default: the card before the present one.
        reason: For the history.

    Returns:
        The entry whose card is in use now.

    Raises:
        InputError: there is no such entry, or no card before the present one.
        CardError: the history or the card in it cannot be read.
    """
    path = Path(path)
    with locked(path.parent):
        raw, history = documents.read_json(path), load_history(path)
        former = history.previous if to is None else history.entry(to)
        if former is None:
            raise InputError(f"{path} has no card before the present one: there is nothing to roll back")
        former.parsed(history_file(path))
        history.after(raw, by="rolled back", reason=reason, to=former.number).save(history_file(path))
        write_atomically(path, documents.written(former.card))
    return former


def _is_finite(errors: Errors) -> bool:
    return all(abs(value) < float("inf") for value in (errors.rmse, errors.median))
