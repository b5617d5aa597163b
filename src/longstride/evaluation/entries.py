"""What takes part in a study: the tables of its contestants, and those of cards with their bases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from longstride.book import CardBook
from longstride.card import Card
from longstride.errors import InputError
from longstride.evaluation.contestants import CONTESTANTS
from longstride.evaluation.measure import Key
from longstride.evaluation.study import Study
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["entries_of"]


def entries_of(
    model: Model, study: Study, cards: Mapping[str, Card | CardBook], *, any_model: bool
) -> tuple[dict[Key, SolverTable], dict[str, str | None], dict[Key, Card]]:
    """Base tables of the contestants and the tables of cards, every name's base, and the cards."""
    tables: dict[Key, SolverTable] = {}
    known: dict[Key, Card] = {}
    bases: dict[str, str | None] = {}
    for one in study.entrants:
        bases[one.name] = one.base
        for nfe in study.nfes:
            table = study.table(model.schedule, one, nfe)
            tables.setdefault((one.name, table.nfe), table)
    for name, given in cards.items():
        base = f"{name} (base)"
        if name in bases or base in bases or name in (*CONTESTANTS, "teacher"):
            raise InputError(f"two samplers are called {name!r}: rename the card's file")
        bases |= {base: None, name: base}
        for card in _held(name, given, study) if isinstance(given, CardBook) else [given]:
            info = model.info(study.guidance)
            card.check_model(info.model_copy(update={"fingerprint": None}) if any_model else info)
            tables[base, card.nfe], tables[name, card.nfe] = card.base_table, card.table
            known[name, card.nfe] = card
    if not tables:
        raise InputError("a study needs a contestant or a card")
    first = next(iter(tables.values()))
    for (name, _), table in tables.items():
        if not np.allclose(table.sigmas[[0, -1]], first.sigmas[[0, -1]], rtol=1e-6):
            raise InputError(
                f"{name} runs from sigma {table.sigmas[0]:g} to {table.sigmas[-1]:g}, the others from "
                f"{first.sigmas[0]:g} to {first.sigmas[-1]:g}: they have no converged solution in common"
            )
    return tables, bases, known


def _held(name: str, book: CardBook, study: Study) -> list[Card]:
    """The cards of a book that a study can use.

    Raises:
        InputError: there is none.
    """
    here = [one.card for one in book.entries if one.guidance == study.guidance]
    found = [card for card in here if not study.contestants or card.nfe in study.nfes]
    if not found:
        scale = "without guidance" if study.guidance is None else f"at guidance {study.guidance:g}"
        calls = "" if not here else f" with {', '.join(map(str, study.nfes))} network calls"
        raise InputError(f"{name} holds {book.contents}, and nothing {scale}{calls}: choose others")
    return found
