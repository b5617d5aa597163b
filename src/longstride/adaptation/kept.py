"""What an adaptation keeps in its store: settings, cards, state, and digests of noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longstride.adaptation.proposing import Cards, Proposal
from longstride.adaptation.settings import AdaptationSettings
from longstride.adaptation.state import State
from longstride.adaptation.store import AdaptationStore
from longstride.adaptation.sums import Sums
from longstride.card import Card, parse_card
from longstride.errors import CardError, InputError, not_taken
from longstride.journal import table_digest
from longstride.reports import Errors

__all__ = ["Kept"]


class Kept:
    """The store of an adaptation, opened; arguments and errors as of :class:`~longstride.Adaptation`.

    Attributes:
        settings: The settings that the store was made with.
    """

    def __init__(self, card: Card | None, path: str | Path | None, timeout: float, given: Mapping[str, Any]) -> None:
        try:
            wanted = AdaptationSettings(**given)
        except TypeError as error:
            raise not_taken("Adaptation", error) from None
        self._store = AdaptationStore(path, timeout)
        self._cards: tuple[tuple[str, str], Cards] | None = None
        try:
            with self._store.writing():
                if self._store.get("settings") is None:
                    self._fill(card, wanted)
            self.settings = self._settings(card, given)
            self.read()
        except BaseException:
            self._store.close()
            raise

    def _fill(self, card: Card | None, settings: AdaptationSettings) -> None:
        if card is None:
            raise InputError(f"{self._store.path} is new: give the card that the calibration made")
        if card.needs_guard:
            raise InputError(f"a card that needs its guard cannot be adapted: {card.needs_guard}")
        cards = Cards(card, card)
        state = State(Sums.empty(len(cards.parameters)), lineage=(table_digest(cards.table)[:16],))
        for name, text in (("calibrated", card.dumps()), ("card", card.dumps()), ("state", state.dumps())):
            self._store.put(name, text)
        self._store.put("settings", json.dumps(asdict(settings)))

    def _settings(self, card: Card | None, given: Mapping[str, Any]) -> AdaptationSettings:
        path = self._store.path
        if card is not None and self._text("calibrated") != card.dumps():
            raise InputError(f"{path} adapts another card: name another file for this one")
        try:
            found = AdaptationSettings(**json.loads(self._text("settings")))
        except (TypeError, ValueError) as error:
            raise self._store.damaged(f"its settings: {error}") from None
        if changed := [name for name, value in given.items() if getattr(found, name) != value]:
            raise InputError(f"{path} was made with another {', '.join(changed)}: name another file, or leave it out")
        return found

    def _text(self, name: str) -> str:
        text = self._store.get(name)
        if text is None:
            raise self._store.damaged(f"its part {name!r} is missing")
        return text

    def _card(self, name: str, text: str) -> Card:
        try:
            return parse_card(json.loads(text), self._store.path)
        except (ValueError, CardError) as error:
            raise self._store.damaged(f"its part {name!r}: {error}") from None

    def cards(self) -> Cards:
        """The cards now.

        Raises:
            StoreError: the store cannot be read, or is damaged.
        """
        texts = self._text("calibrated"), self._text("card")
        if self._cards is None or self._cards[0] != texts:
            self._cards = texts, Cards(self._card("calibrated", texts[0]), self._card("card", texts[1]))
        return self._cards[1]

    def read(self) -> tuple[State, Cards]:
        """The state and the cards now; raises as :meth:`cards`."""
        with self._store.reading():
            cards, text = self.cards(), self._text("state")
        try:
            return State.loads(text, len(cards.parameters), cards.current.nfe, self.settings), cards
        except ValueError as error:
            raise self._store.damaged(f"its state: {error}") from None

    @contextmanager
    def writing(self) -> Iterator[tuple[State, Cards]]:
        """The state, to be changed within one transaction, and the cards; raises as :meth:`cards`."""
        with self._store.writing():
            state, cards = self.read()
            yield state, cards
            self._store.put("state", state.dumps())

    def claim(self, digests: Sequence[str]) -> list[bool]:
        """Keep digests of noise, within :meth:`writing`; whether each of them is new."""
        return self._store.claim(digests)

    def proposal(self) -> Proposal | None:
        """The proposal that was made last and waits; None: there is none."""
        text = self._store.get("proposal")
        if text is None:
            return None
        try:
            told = json.loads(text)
            errors = {name: Errors(**one) for name, one in told["errors"].items()}
            return Proposal(
                parse_card(told["card"], self._store.path), told["reason"], errors, told["samples"], told["move"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._store.damaged(f"its proposal: {error}") from None

    def put_proposal(self, made: Proposal | None) -> None:
        """Keep a proposal, or drop it, within :meth:`writing`."""
        text = None
        if made is not None:
            told = {name: asdict(one) for name, one in made.errors.items()}
            content = {"card": json.loads(made.card.dumps()), "reason": made.reason, "errors": told}
            text = json.dumps({**content, "samples": made.samples, "move": made.move})
        self._store.put("proposal", text)

    def put_card(self, card: Card) -> None:
        """Make ``card`` the one in use, within :meth:`writing`."""
        self._store.put("card", card.dumps())

    def close(self) -> None:
        """Close the file."""
        self._store.close()
