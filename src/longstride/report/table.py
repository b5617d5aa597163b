"""The table of all samplers: what the page shows, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from longstride.evaluation.bootstrap import Interval
from longstride.report.language import Language
from longstride.report.numbers import Numbers
from longstride.report.outcome import Outcome
from longstride.report.words import label_of

__all__ = ["Cell", "columns_of", "errors_csv", "interval_cell", "rows_of", "samplers_csv"]


@dataclass(frozen=True)
class Cell:
    """A number of the table.

    Attributes:
        key: What it is, for scripts and tests.
        value: The number itself.
        text: The number as it is read.
        ends: The ends of its interval as they are read; empty without an interval.
        low: Lower end, or None.
        high: Upper end, or None.
    """

    key: str
    value: float
    text: str
    ends: str = ""
    low: float | None = None
    high: float | None = None


def interval_cell(key: str, found: Interval | None, language: Language, digits: int = 3) -> Cell | None:
    """A number with its interval; None if there is none."""
    if found is None:
        return None
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f"{language.number(found.low, digits)}–{language.number(found.high, digits)}"
    return Cell(key, found.value, language.number(found.value, digits), ends, found.low, found.high)


#: Columns after the name: key, what is read of the numbers.
_CELLS: tuple[tuple[str, Callable[[Numbers, Language], Cell | None]], ...] = (
    ("calls", lambda n, t: Cell("calls", n.sampler.calls, t.whole(n.sampler.calls))),
    ("ratio", lambda n, t: interval_cell("ratio", n.ratio, t)),
    ("rmse", lambda n, t: interval_cell("rmse", n.rmse, t)),
    ("median", lambda n, t: interval_cell("median", n.median, t)),
    ("distance", lambda n, t: interval_cell("distance", n.sampler.distance, t)),
    ("worse", lambda n, t: Cell("worse", n.tails[0].share, t.percent(n.tails[0].share))),
    ("worse_2", lambda n, t: Cell("worse_2", n.tails[1].share, t.percent(n.tails[1].share))),
    ("worse_4", lambda n, t: Cell("worse_4", n.tails[2].share, t.percent(n.tails[2].share))),
)


def columns_of(language: Language) -> list[dict[str, str]]:
    """Heads of the columns."""
    _ = language.text
    names = [_("Sampler"), _("Calls"), _("Ratio"), _("RMSE"), _("Median error"), _("Fréchet distance")]
    names += [_("Worse"), "2 ×", "4 ×"]
    return [{"name": name, "kind": "name" if n == 0 else "number"} for n, name in enumerate(names)]


def rows_of(
    found: Sequence[Numbers], outcome: Outcome, recommended: int | None, language: Language
) -> list[dict[str, Any]]:
    """Rows of the table: today's sampler first, then ours, then the others, each by calls."""
    order = {"calibrated": 1, "best_classical": 2, outcome.today[0]: 3}

    def place(one: Numbers) -> tuple[int, str, int]:
        key = (one.sampler.name, one.sampler.calls)
        return (0 if key == outcome.today else order.get(one.sampler.name, 4), *key)

    rows, bases = [], {one.calls: one.base for one in outcome.calibrated}
    for one in sorted(found, key=place):
        first = (one.sampler.name, one.sampler.calls) == outcome.today
        label = label_of(one.sampler, language)
        if one.sampler.name == "best_classical" and one.sampler.calls in bases:
            label = f"{label}: {bases[one.sampler.calls]}"
        if first:
            label = language.text("{sampler}, as today", sampler=label)
        cells = [read(one, language) for _, read in _CELLS]
        if first:  # compared with itself
            cells = [cell if cell is None or not cell.key.startswith("worse") else None for cell in cells]
            cells[1] = Cell("ratio", 1.0, language.number(1, 1))
        ours = one.sampler.kind == "calibrated"
        rows.append(
            {
                "name": label,
                "kind": "calibrated" if ours else "today" if first else "",
                "sampler": one.sampler,
                "recommended": ours and one.sampler.calls == recommended,
                "cells": cells,
            }
        )
    return rows


def samplers_csv(found: Sequence[Numbers]) -> str:
    """The table as CSV, with English heads: a line per sampler and number of calls."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    measures = ("rmse", "median", "ratio", "distance", "distance_change", "seconds")
    heads = [f"{name}{end}" for name in measures for end in ("", "_low", "_high")]
    tails = [f"worse_{factor}{end}" for factor in (1, 2, 4) for end in ("", "_at_most")]
    writer.writerow(["sampler", "label", "kind", "calls", *heads, *tails])
    for one in found:
        sampler = one.sampler
        values = (one.rmse, one.median, one.ratio, sampler.distance, sampler.distance_change, one.seconds)
        numbers = [end for found in values for end in (("", "", "") if found is None else _ends(found))]
        shares = [number for tail in one.tails for number in (tail.share, tail.at_most)]
        writer.writerow([sampler.name, sampler.label, sampler.kind, sampler.calls, *numbers, *shares])
    return buffer.getvalue()


def _ends(found: Interval) -> tuple[float | str, ...]:
    return tuple("" if end is None else end for end in (found.value, found.low, found.high))


def errors_csv(outcome: Outcome) -> str:
    """The error of every sample as CSV: a line per sample, a column per sampler and number of calls."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    measured = [one for one in outcome.samplers if one.errors]
    writer.writerow(["sample", *(f"{one.name}-{one.calls}" for one in measured)])
    for number, errors in enumerate(zip(*(one.errors for one in measured), strict=True)):
        writer.writerow([number, *errors])
    return buffer.getvalue()
