"""The card book: one file with calibrated samplers for many numbers of network calls and guidance scales.

A book holds full cards, each with its own verdict of the gate, and the origin of each. Between two guidance scales the
book fills a table (:mod:`longstride.interpolate`). For other settings it warns, and gives a classical solver: never the
table of another setting.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr

from longstride import documents
from longstride.book_parts import Entry, Unjudged
from longstride.card import CARD_FILE, Card, parse_card
from longstride.card_parts import ModelInfo, ScheduleData
from longstride.errors import CardError, InputError
from longstride.grid import LastLevel, grid
from longstride.interpolate import fill_guidance, resampled
from longstride.schedule import Schedule
from longstride.solvers import build, steps_for_nfe
from longstride.table import SolverTable
from longstride.version import __version__

__all__ = ["BOOK_VERSION", "CardBook", "Entry", "Unjudged", "load_any", "load_book"]

#: Version of the format; a book with a higher one was written by a newer longstride. Version 2 holds cards of
#: version 4, version 3 of version 5.
BOOK_VERSION = 3
#: Most settings of a book.
_MOST_ENTRIES = 1024


class CardBook(documents.Document):
    """Cards of one model at many settings.

    Attributes:
        format: Always ``"longstride-book"``.
        version: Version of the format.
        longstride: Version of the package that wrote it.
        model: The model of all cards; its guidance is None.
        schedule: The model's schedule, for classical solvers at settings outside of the book; None if the model has no
            schedule of longstride's classes.
        entries: One per setting, by guidance scale and number of calls.
    """

    format: Literal["longstride-book"] = "longstride-book"
    version: int = BOOK_VERSION
    longstride: str
    model: ModelInfo
    schedule: ScheduleData | None
    entries: list[Entry] = Field(min_length=1, max_length=_MOST_ENTRIES)
    _said: set[str] = PrivateAttr(default_factory=set)

    @staticmethod
    def of(entries: Sequence[Entry], schedule: Schedule | None) -> CardBook:
        """A book of ``entries``.

        Raises:
            CardError: no entries, entries of several models, or two entries of one setting.
        """
        if not entries:
            raise CardError("a book needs at least one entry")
        ordered = sorted(entries, key=lambda e: (-math.inf if e.guidance is None else e.guidance, e.nfe))
        model = ordered[0].card.model.model_copy(update={"guidance": None})
        data = None if schedule is None else ScheduleData.of(schedule)
        book = CardBook(longstride=__version__, model=model, schedule=data, entries=ordered)
        book.check("the book")
        return book

    @property
    def nfes(self) -> list[int]:
        """All numbers of calls, rising."""
        return sorted({entry.nfe for entry in self.entries})

    @property
    def guidances(self) -> list[float | None]:
        """All guidance scales, rising; ``[None]`` for a book without guidance."""
        return list(dict.fromkeys(entry.guidance for entry in self.entries))

    def entry(self, nfe: int, guidance: float | None = None) -> Entry | None:
        """The entry of this setting, or None."""
        return next((e for e in self.entries if (e.nfe, e.guidance) == (nfe, guidance)), None)

    def card(self, nfe: int, guidance: float | None = None, *, strict: bool = False) -> Card | Unjudged:
        """The sampler for a setting; ``.table`` is its table.

        Args:
            nfe: Network calls per sample; a guided pair counts as one.
            guidance: Guidance scale; default: the scale of a book with a single scale.
            strict: Whether a setting outside of the book is an error.

        Returns:
            The card of an entry. Between two guidance scales: a filled table. Outside of the book: the classical solver
            that was best at the nearest entry, after one warning per setting.

        Raises:
            InputError: a setting outside of the book under ``strict``, calls that no classical solver can spend, or no
                guidance for a book with several scales.
        """
        found = self.choose(nfe, guidance, strict=strict)
        if isinstance(found, Unjudged) and found.how == "base" and found.note not in self._said:
            self._said.add(found.note)
            warnings.warn(found.note, stacklevel=2)
        return found

    def choose(self, nfe: int, guidance: float | None = None, *, strict: bool = False) -> Card | Unjudged:
        """As :meth:`card`, but the warning is in the ``note`` of the result alone."""
        scale = self._scale(nfe, guidance)
        if (found := self.find(nfe, guidance)) is not None:
            return found
        asked = f"{nfe} network calls" + ("" if scale is None else f" at guidance {scale:g}")
        if strict:
            raise InputError(f"{asked}: not in this book, which holds {self.contents}")
        nearest = self._nearest(nfe, scale)
        table = self._classical(nearest.card, nfe)
        name = nearest.card.base.name if nearest.card.search is None else nearest.card.search.base
        name = name if table.name == nearest.card.base_table.name else table.name  # no universal table serves
        note = f"{asked}: not in this book, which holds {self.contents}; {name}, its base, is used, uncalibrated"
        return Unjudged(table, table, self.model.model_copy(update={"guidance": scale}), "base", note, nearest.card)

    def find(self, nfe: int, guidance: float | None = None) -> Card | Unjudged | None:
        """As :meth:`card`, but None for a setting outside of the book.

        Raises:
            InputError: no guidance, and several scales for this number of calls.
        """
        scale = self._scale(nfe, guidance)
        entry = self.entry(nfe, scale)
        return self._between(nfe, scale) if entry is None else entry.card

    def _scale(self, nfe: int, guidance: float | None) -> float | None:
        """The scale that is meant. Guidance 1 is none; no guidance is the scale of a book with a single scale.

        Raises:
            InputError: there are several scales for this number of calls.
        """
        scales = [entry.guidance for entry in self.entries if entry.nfe == nfe] or self.guidances
        if guidance is None and len(scales) > 1:
            known = ", ".join(f"{g:g}" for g in scales if g is not None)
            raise InputError(f"this book holds the guidance scales {known}: say which")
        if guidance is None or (guidance == 1 and scales == [None]):
            return scales[0]
        return float(guidance)

    @property
    def contents(self) -> str:
        """The settings of the book in words."""
        calls = ", ".join(map(str, self.nfes))
        scales = [f"{g:g}" for g in self.guidances if g is not None]
        return f"{calls} network calls" + (f" at guidance {', '.join(scales)}" if scales else " without guidance")

    def _between(self, nfe: int, scale: float | None) -> Unjudged | None:
        """A table filled between two guidance scales with this number of calls; None if that is not possible."""
        here = {e.guidance: e for e in self.entries if e.nfe == nfe and e.guidance is not None}
        if scale is None or not here or not min(here) < scale < max(here):
            return None
        sides = max(g for g in here if g < scale), min(g for g in here if g > scale)
        fitted = {g: e.card.table for g, e in here.items() if e.how != "base"}
        if not set(sides) <= set(fitted):  # nothing lies between a base and a fitted table
            return None
        near = here[min(sides, key=lambda g: abs(_position(g) - _position(scale)))].card
        try:
            table = fill_guidance(fitted, scale, name=f"{near.solver}_filled")
        except InputError:
            return None
        note = f"filled between guidance {', '.join(f'{g:g}' for g in fitted)}; not judged on held-out noise"
        model = self.model.model_copy(update={"guidance": scale})
        return Unjudged(table, near.base_table, model, "filled", note, near)

    def _nearest(self, nfe: int, scale: float | None) -> Entry:
        def away(entry: Entry) -> float:
            apart = abs(_position(entry.guidance) - _position(scale))
            return abs(math.log(entry.nfe / max(nfe, 1))) + apart

        return min(self.entries, key=away)

    def _classical(self, card: Card, nfe: int) -> SolverTable:
        """The base of an entry, built for another number of calls on the same kind of grid.

        Raises:
            InputError: the solver cannot spend so many calls, or does not take the options on the card.
        """
        base = card.base_table
        try:
            return self._rebuilt(base, nfe, "" if card.search is None else card.search.base.partition("@")[2])
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # a card may hold any value as an option
            raise InputError(f"the options of {base.name} cannot be used ({error}): calibrate the book anew") from None

    def _rebuilt(self, base: SolverTable, nfe: int, spacing: str) -> SolverTable:
        """A base for another number of calls, on levels of a spacing if it has the ends of the base."""
        schedule = None if self.schedule is None else self.schedule.schedule()
        final: LastLevel = "zero" if base.sigmas[-1] == 0 else "sigma_min"
        steps = steps_for_nfe(base.name, nfe, final_zero=final == "zero", **base.options)
        if schedule is not None and spacing in ("karras", "log_snr", "uniform", "quadratic"):
            levels = grid(spacing, steps, schedule=schedule, final=final)
            if levels[0] == base.sigmas[0] and levels[-1] == base.sigmas[-1]:
                return build(base.name, levels, schedule=schedule, **base.options)
        alphas, sigmas = resampled(base, steps)
        return build(base.name, sigmas, alphas=alphas, schedule=schedule, **base.options)

    def check(self, where: str) -> None:
        """Make sure that the entries fit together, and that each of them holds a sampler.

        Args:
            where: The file, for the message.

        Raises:
            CardError: entries that do not fit together, an entry without a sampler, or an unusable schedule.
        """
        seen: set[tuple[int, float | None]] = set()
        for entry in self.entries:
            setting = f"{entry.nfe} network calls" + (
                "" if entry.guidance is None else f", guidance {entry.guidance:g}"
            )
            entry.card.check_tables(f"{where}, {setting},")
            if (entry.nfe, entry.guidance) in seen:
                raise CardError(f"{where} holds two entries for {setting}")
            seen.add((entry.nfe, entry.guidance))
            if entry.card.model.model_copy(update={"guidance": None}) != self.model:
                raise CardError(f"{where}: the entry for {setting} was calibrated on another model")
            if entry.card.end.accepted == (entry.how == "base"):
                verdict = "accepted" if entry.card.end.accepted else "kept the base"
                raise CardError(f"{where}: the entry for {setting} is marked {entry.how!r}, but its gate {verdict}")
        if len({entry.guidance is None for entry in self.entries}) > 1:
            raise CardError(f"{where} holds entries with and without guidance")
        try:
            if self.schedule is not None:
                self.schedule.schedule()
        except InputError as error:
            raise CardError(f"{where} holds no usable schedule: {error}") from None


def _position(scale: float | None) -> float:
    """Where a guidance scale lies among others; distances are relative."""
    return math.log1p(scale) if scale is not None and scale > -1 else 0.0


def load_book(path: str | Path) -> CardBook:
    """Read and validate a book.

    Args:
        path: A file written by :meth:`CardBook.save`.

    Raises:
        CardError: missing, cut short, edited, written by a newer longstride, or not a book; the message says which.
    """
    return _parse_book(documents.read_json(path, "book"), path)


def load_any(path: str | Path) -> Card | CardBook:
    """Read and validate a card or a book; from the hub as :func:`~longstride.load_card`.

    Raises:
        CardError: as :func:`load_book` and :func:`~longstride.load_card`.
    """
    raw = documents.read_json(documents.located(path, CARD_FILE))
    book = isinstance(raw, dict) and raw.get("format") == "longstride-book"
    return _parse_book(raw, path) if book else parse_card(raw, path)


def _parse_book(raw: object, path: str | Path) -> CardBook:
    book = documents.parse(raw, path, CardBook, "book", BOOK_VERSION)
    book.check(str(path))
    return book
