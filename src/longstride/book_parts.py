"""What a book holds and gives: its entries, and tables that no gate has judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longstride.card import Card
from longstride.card_parts import How, ModelInfo, Part
from longstride.table import SolverTable

__all__ = ["Entry", "Unjudged"]


class Entry(Part):
    """One setting of a book.

    Attributes:
        how: Origin of the table.
        card: The card; if ``how`` is ``base``, its table is the base.
    """

    how: How
    card: Card

    @property
    def nfe(self) -> int:
        """Network calls per sample; a guided pair counts as one."""
        return self.card.nfe

    @property
    def guidance(self) -> float | None:
        """Guidance scale, or None."""
        return self.card.model.guidance


@dataclass(frozen=True, eq=False)
class Unjudged:
    """A table from a book without a card: no gate has judged it.

    Attributes:
        table: The table.
        base_table: The classical table to compare with; ``table`` itself if ``how`` is ``base``.
        model: The book's model, at the guidance scale of the table.
        how: ``filled`` between two guidance scales, or ``base``: a classical solver, for a setting outside of the book.
        note: The origin in words.
        near: Card of the nearest entry.
    """

    table: SolverTable
    base_table: SolverTable
    model: ModelInfo
    how: Literal["filled", "base"]
    note: str
    near: Card

    @property
    def nfe(self) -> int:
        """Network calls per sample; a guided pair counts as one."""
        return self.table.nfe

    def check_model(self, model: ModelInfo) -> None:
        """Make sure that the table belongs to ``model``; see :meth:`longstride.Card.check_model`."""
        self.model.check(model)
