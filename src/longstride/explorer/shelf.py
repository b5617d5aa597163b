"""The folder that an explorer reads and writes: cards, books and outcomes, and nothing else of this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longstride.book import CardBook, load_any
from longstride.card import Card
from longstride.errors import InputError, one_line
from longstride.files import check_writable
from longstride.report.outcome import Outcome, load_outcome

__all__ = ["Kind", "Shelf"]

#: What a file holds.
Kind = Literal["card", "book", "outcome"]
_KINDS: dict[str, Kind] = {"longstride-card": "card", "longstride-book": "book", "longstride-poc": "outcome"}
#: Larger files, and files beyond so many, are not looked at.
_LARGEST, _MOST = 64 * 2**20, 500


@dataclass(frozen=True)
class Shelf:
    """The files of a folder, and of the folders ``*.files`` in it that ``longstride poc`` leaves.

    A file is named by its path from the folder. Whatever lies elsewhere is refused: names come from a browser.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def files(self) -> dict[str, Kind]:
        """Cards, books and outcomes by name, in the order of names."""
        places = [*self.folder.glob("*.json"), *self.folder.glob("*.files/*.json")]
        found = {}
        for place in sorted(places)[:_MOST]:
            kind = _kind(place)
            if kind is not None:
                found[place.relative_to(self.folder).as_posix()] = kind
        return found

    def samplers(self) -> list[str]:
        """Names of cards and books."""
        return [name for name, kind in self.files().items() if kind != "outcome"]

    def outcomes(self) -> list[str]:
        """Names of outcomes."""
        return [name for name, kind in self.files().items() if kind == "outcome"]

    def load(self, name: str) -> Card | CardBook:
        """A card or a book.

        Raises:
            InputError: there is no such file here.
            CardError: the file is damaged, edited, or no card.
        """
        return load_any(self._place(name))

    def outcome(self, name: str) -> Outcome:
        """What ``longstride poc`` measured.

        Raises:
            InputError: there is no such file here, or it is no outcome.
        """
        return load_outcome(self._place(name))

    def stamp(self, name: str) -> int:
        """When a file was written last, in nanoseconds: a file that was replaced is another one.

        Raises:
            InputError: there is no such file here.
        """
        return self._place(name).stat().st_mtime_ns

    def book_beside(self, name: str) -> str | None:
        """Name of the book of cards that ``longstride poc`` left beside an outcome, or None."""
        book = Path(name).with_name("cards.json").as_posix()
        return book if self.files().get(book) == "book" else None

    def new(self, name: str) -> Path:
        """Where a new card can be written.

        Args:
            name: Name of the file, with or without ``.json``.

        Raises:
            InputError: a name with folders, a name that is taken, or a folder that cannot be written.
        """
        file = name.strip().removesuffix(".json") + ".json"
        if file != Path(file).name or file.startswith(".") or not file.isprintable() or "\\" in file:
            raise InputError(f"the card needs a file name without folders, such as card.json, got {one_line(name)!r}")
        place = self.folder / file
        if place.exists():
            raise InputError(f"{file} is there already: choose another name, or move it away")
        check_writable(place)
        return place

    def save(self, card: Card, name: str) -> str:
        """Write a card; its name on the shelf.

        Raises:
            InputError: see :meth:`new`.
        """
        place = self.new(name)
        card.save(place)
        return place.name

    def _place(self, name: str) -> Path:
        if name not in self.files():
            raise InputError(f"there is no card, book or outcome {one_line(name)!r} in {self.folder}")
        return self.folder / name


def _kind(place: Path) -> Kind | None:
    """What a file holds, without a check of its content; None: nothing of ours."""
    try:
        if place.stat().st_size > _LARGEST or not place.is_file():
            return None
        raw = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return _KINDS.get(str(raw.get("format"))) if isinstance(raw, dict) else None
