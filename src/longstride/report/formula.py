"""The formula of a step: the state that a row makes from earlier states ``x`` and clean predictions ``D``."""

from __future__ import annotations

from dataclasses import dataclass

from longstride.table import Row

__all__ = ["Term", "formula", "terms"]


@dataclass(frozen=True)
class Term:
    """A term of a formula.

    Attributes:
        sign: ``+``, ``-``, or nothing before a first term that is added.
        weight: The absolute weight, with four digits.
        symbol: ``x`` or ``D``.
        index: Number of the state or the prediction.
    """

    sign: str
    weight: str
    symbol: str
    index: int


def terms(row: Row) -> list[Term]:
    """The terms of a row: states, then predictions, the last ones first."""
    found = [(weight, "x", i) for i, weight in sorted(row.states.items(), reverse=True)]
    found += [(weight, "D", j) for j, weight in sorted(row.outputs.items(), reverse=True)]
    return [
        Term("-" if weight < 0 else "+" if n else "", f"{abs(weight):.4g}", symbol, index)
        for n, (weight, symbol, index) in enumerate(found)
    ]


def formula(row: Row) -> str:
    """A row as text.

    >>> formula(Row({0: -0.25}, {0: 1.5, 1: -0.75}))
    '-0.25 x0 - 0.75 D1 + 1.5 D0'
    """
    found = terms(row)
    gaps = ["", *[" "] * (len(found) - 1)]  # after the sign; the first one is a part of its number
    return " ".join(
        f"{one.sign}{gap}{one.weight} {one.symbol}{one.index}" for one, gap in zip(found, gaps, strict=True)
    )
