"""One page of one or several cards: what they are, how good they measured, their formulas, weights and levels.

The page is for engineers, and is in English. It loads nothing and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from longstride.card import Card
from longstride.errors import InputError, one_line
from longstride.evaluation.contestants import card_label
from longstride.files import write_atomically
from longstride.history import History
from longstride.plots import draw_difference, draw_levels, draw_search, draw_steps, draw_table
from longstride.plots.style import inline_svg
from longstride.plots.tables import largest_weight
from longstride.report.comparison import Shown, base_label, change, differences, sections
from longstride.report.formula import terms
from longstride.report.templating import TEMPLATES, environment, safe
from longstride.reports import Errors
from longstride.version import __version__

__all__ = ["MOST_CARDS", "render_cards", "write_cards"]

#: Most cards of a page: each takes about a hundred kilobytes, and a screen or two.
MOST_CARDS = 32
#: Most steps whose formulas are written out.
_MOST_FORMULAS = 64
#: Longer names are cut in drawings.
_LONGEST = 26


@dataclass(frozen=True)
class _Chart:
    """A drawing with its caption."""

    id: str
    svg: Any
    title: str
    note: str


def write_cards(shown: Sequence[Shown], path: Path) -> None:
    """Write the page.

    Args:
        shown: The cards.
        path: HTML file.

    Raises:
        InputError: too many cards, the file cannot be written, or the optional packages are missing.
    """
    write_atomically(path, render_cards(shown).encode())


def render_cards(shown: Sequence[Shown]) -> str:
    """The page as HTML; see :func:`write_cards`."""
    template = environment().get_template("cards.html")
    if len(shown) > MOST_CARDS:
        raise InputError(f"a page holds at most {MOST_CARDS} cards, these are {len(shown)}: name fewer files")
    several = len(shown) > 1
    return str(
        template.render(
            style=safe((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            title=", ".join(one.name for one in shown[:4]) + (" …" if len(shown) > 4 else ""),
            several=several,
            names=[one.name for one in shown],
            differences=differences(shown),
            sections=sections(shown) if several else [],
            levels=_levels_of_all(shown) if several else None,
            cards=[_card(one, number) for number, one in enumerate(shown)],
            version=__version__,
        )
    )


def _levels_of_all(shown: Sequence[Shown]) -> _Chart:
    names = _drawn_names([one.name for one in shown])
    figure = draw_levels({name: one.card.table for name, one in zip(names, shown, strict=True)})
    note = "Levels of the same number are joined between cards that make the same number of calls."
    return _Chart("all-levels", safe(inline_svg(figure, "all-levels")), "Levels of all cards", note)


def _drawn_names(names: Sequence[str]) -> list[str]:
    """Names that fit into a drawing, each once."""
    short = [name if len(name) <= _LONGEST else f"{name[:10]}…{name[11 - _LONGEST :]}" for name in names]
    return [name if short.count(name) == 1 else f"{n + 1}: {name}" for n, name in enumerate(short)]


def _card(shown: Shown, number: int) -> dict[str, Any]:
    """Everything that the page says of a card."""
    card = shown.card
    held = card.end.calibrated if card.end.accepted else card.end.base
    return {
        "id": f"card-{number + 1}",
        "name": shown.name,
        "headline": _headline(card, held),
        "accepted": card.end.accepted,
        "reason": one_line(card.end.reason) or "the calibrated rows were worse",
        "tiles": _tiles(card, held),
        "facts": _facts(card),
        "errors": _errors(card),
        "charts": _charts(card, f"c{number + 1}"),
        "formulas": [
            {"sigma": f"{card.table.sigmas[k]:.4g}", "state": k, "terms": terms(row)}
            for k, row in enumerate(card.table.rows[:_MOST_FORMULAS], start=1)
        ],
        "left_out": max(0, card.nfe - _MOST_FORMULAS),
        "watched": _watched(card),
        "settings": _settings(card),
        "history": _history(shown.history),
    }


def _headline(card: Card, held: Errors) -> str:
    model, base = one_line(card.model.name), base_label(card)
    if not card.end.accepted:
        return f"{model} in {card.nfe} network calls: the card holds its base, {base}"
    apart = 100 * (held.rmse / card.end.base.rmse - 1) if card.end.base.rmse > 0 else 0.0
    than = f", {abs(apart):.0f} % {'below' if apart < 0 else 'above'} {base}" if round(apart) else f", as {base}"
    return f"{model} in {card.nfe} network calls: RMSE {held.rmse:.4f}{than}"


def _tiles(card: Card, held: Errors) -> list[tuple[str, str, str]]:
    """Name, value and note of the numbers that count."""
    base, found = card.end.base, card.end.stability
    tiles = [("Network calls", str(card.nfe), one_line(card_label(card.method)))]
    for name, mine, theirs in (("RMSE", held.rmse, base.rmse), ("Median error", held.median, base.median)):
        tiles.append((name, f"{mine:.4f}", f"base {theirs:.4f}, {change(theirs, mine)}".rstrip(", ")))
    if found is not None:
        tiles.append(("Gain of network errors", f"{found.gain:.3g}", f"base {found.base_gain:.3g}"))
    return tiles


def _facts(card: Card) -> list[tuple[str, str]]:
    """Name and value of what a card is."""
    model = card.model
    facts = [("model", one_line(model.name))]
    facts += [("weights", one_line(model.fingerprint)[:12])] if model.fingerprint else []
    facts += [
        (f"weights of {one_line(name)}", one_line(digest or "unknown")[:12]) for name, digest in model.networks.items()
    ]
    facts += [(f"adapter {one_line(name)}", f"scale {one.scale:g}") for name, one in model.adapters.items()]
    facts += [("guidance", f"{model.guidance:g}")] if model.guidance is not None else []
    facts += [("shape", " × ".join(map(str, model.shape)))] if model.shape else []
    facts += [("pipeline", one_line(card.call.pipeline))] if card.call is not None else []
    facts += [("base", base_label(card))]
    facts += [("fit started from", one_line(card_label(card.search.start)))] if card.search is not None else []
    facts += [("calibration", f"{card.calls:,} network calls, in samples")] if card.calls is not None else []
    facts.append(("written by", f"longstride {one_line(card.longstride)}"))
    return facts


def _errors(card: Card) -> list[tuple[str, str, str]]:
    """Name, RMSE and median of what was measured on held-out noise."""
    end = card.end
    rows = [(f"base: {base_label(card)}", end.base), ("calibrated", end.calibrated)]
    if end.guard is not None:
        fresh = end.guard
        rows.append((f"base, {fresh.samples} fresh samples", fresh.base))
        rows += [("calibrated, fresh samples", fresh.unguarded)] if fresh.unguarded is not None else []
        rows.append(("calibrated with its guard, fresh samples", fresh.guarded))
    return [(name, f"{found.rmse:.4f}", f"{found.median:.4f}") for name, found in rows]


def _watched(card: Card) -> list[tuple[str, str]]:
    """Name and sentence of what watches the card."""
    guard, report, lines = card.guard, card.end.guard, []
    if guard is None:
        lines.append(("Guard", "This card has no guard."))
    else:
        when = f"It looks after call {guard.calls or card.nfe} of {card.nfe}."
        lines.append(("Guard", f"About {100 * guard.share:.2g} % of samples are made again by the base. {when}"))
    if card.needs_guard is not None:
        lines.append(("Without it", f"{card.needs_guard[:1].upper()}{card.needs_guard[1:]}."))
    if report is None:
        lines.append(("Tails", "The card holds no measurement on fresh samples."))
    else:
        again = f"The base made {report.flagged} of {report.samples} fresh samples again."
        lines.append(("Tails", f"{report.claim[:1].upper()}{report.claim[1:]}. {again}"))
    clean = "The card holds none: a monitor needs them." if card.normal is None else f"{card.normal.samples} runs."
    return [*lines, ("Clean runs", clean)]


def _settings(card: Card) -> str:
    """The settings of the method, and those of the pipeline's call, as JSON."""
    found: dict[str, Any] = {"method": card.method, "settings": card.settings}
    if card.call is not None:
        found["call"] = {"pipeline": card.call.pipeline, **card.call.settings}
    return json.dumps(found, indent=1)


def _charts(card: Card, place: str) -> list[_Chart]:
    """The drawings of a card; ``place`` begins every id."""
    table, base, largest = card.table, card.base_table, largest_weight(card.table, card.base_table)
    name = base_label(card)
    drawn = [
        (
            "levels",
            draw_levels({"this card": table, "base": base}),
            "Levels",
            f"of this card and of its base, {name}. Levels of the same number are joined; open: within a step.",
        )
    ]
    if card.steps:
        note = "of the base row and of the row in use, on held-out samples."
        drawn.append(("steps", draw_steps(card.steps), "Error per step", note))
    elif card.search is not None and card.search.iterations:
        drawn.append(("fit", draw_search(card.search), "The fit", "after every step, on fitted and held-out samples."))
    note = "of x0 and of every clean prediction D in each state; blue: positive, orange: negative."
    drawn.append(("weights", draw_table(table, largest=largest), "Weights of this card", note))
    note = f"{name}, on the same colour scale."
    drawn.append(("base", draw_table(base, largest=largest), "Weights of the base", note))
    note = "this card less its base, on a colour scale of its own."
    drawn.append(("difference", draw_difference(table, base), "What calibration changed", note))
    return [
        _Chart(f"{place}-{key}", safe(inline_svg(figure, f"{place}-{key}")), title, note)
        for key, figure, title, note in drawn
    ]


def _history(history: History) -> list[tuple[str, str, str, str, str]]:
    """Entry, time, what came then, RMSE before and after, and reason of the former cards."""
    lines = []
    for one in history.entries:
        then = one.by if one.to is None else f"{one.by} to {one.to}"
        after = one.errors.get("base" if one.by == "base" else "fitted")
        before = one.errors.get("card")
        rmse = " → ".join("–" if found is None else f"{found.rmse:.4g}" for found in (before, after))
        when = datetime.fromtimestamp(one.until).astimezone().isoformat(" ", "minutes")
        lines.append((str(one.number), when, then, rmse, one_line(one.reason)))
    return lines
