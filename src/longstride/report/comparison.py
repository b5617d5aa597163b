"""Cards side by side in words: their facts, levels and largest differences of weights, for terminals and for pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from longstride.arrays import Array
from longstride.card import Card, same_start
from longstride.card_parts import CallInfo
from longstride.errors import one_line
from longstride.evaluation.contestants import card_label
from longstride.history import History
from longstride.reports import Errors
from longstride.table import SolverTable

__all__ = ["Line", "Section", "Shown", "base_label", "change", "differences", "guard_of", "sections"]

#: So many weights are named where cards differ, and so many levels of a card; of more, the first and the last ones.
_WEIGHTS, _LEVELS = 5, 24
#: What a card does not hold.
_NONE = "–"


@dataclass(frozen=True)
class Shown:
    """A card and what it is called here.

    Attributes:
        name: Short name, such as its file's.
        card: The card.
        history: The cards that were in its file before.
    """

    name: str
    card: Card
    history: History = field(default_factory=History)


@dataclass(frozen=True)
class Line:
    """One fact of several cards.

    Attributes:
        name: What is told.
        cells: What is told of every card, in their order.
    """

    name: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the cards are not all the same in it."""
        return len(set(self.cells)) > 1


@dataclass(frozen=True)
class Section:
    """Lines under one headline.

    Attributes:
        title: The headline.
        lines: The lines.
    """

    title: str
    lines: tuple[Line, ...]


def base_label(card: Card) -> str:
    """What the table is compared with, for people."""
    name = card.base.name if card.search is None or card.search.base == "given" else card.search.base
    return one_line(card_label(name))


def change(before: float, after: float) -> str:
    """The change of an error in per cent; empty without an error before."""
    return f"{100 * (after / before - 1):+.0f} %" if before > 0 else ""


def _in_use(card: Card) -> Errors:
    """Held-out errors of the table on the card."""
    return card.end.calibrated if card.end.accepted else card.end.base


def guard_of(card: Card) -> str:
    """The guard of a card in a few words."""
    guard = card.guard
    if guard is None:
        return "none"
    text = f"{100 * guard.share:.2g} % of samples, after call {guard.calls or card.nfe}"
    return f"{text}; needed" if guard.needed else text


def _bad(card: Card) -> str:
    report = card.end.guard
    return _NONE if report is None else f"at most {100 * report.share:.2g} % ({report.bad} of {report.samples})"


def _gain(card: Card) -> str:
    found = card.end.stability
    return _NONE if found is None else f"{found.gain:.3g} (base {found.base_gain:.3g})"


#: Of every fact its name, and how it is read.
_FACTS: tuple[tuple[str, Callable[[Card], str]], ...] = (
    ("model", lambda card: one_line(card.model.name)),
    ("guidance", lambda card: "none" if card.model.guidance is None else f"{card.model.guidance:g}"),
    ("network calls", lambda card: str(card.nfe)),
    ("method", lambda card: one_line(card_label(card.method))),
    ("base", base_label),
)
_MEASURED: tuple[tuple[str, Callable[[Card], str]], ...] = (
    ("gate", lambda card: "accepted" if card.end.accepted else "holds the base"),
    ("RMSE", lambda card: f"{_in_use(card).rmse:.4f}"),
    ("RMSE of the base", lambda card: f"{card.end.base.rmse:.4f}"),
    ("change", lambda card: change(card.end.base.rmse, _in_use(card).rmse)),
    ("median", lambda card: f"{_in_use(card).median:.4f}"),
    ("median of the base", lambda card: f"{card.end.base.median:.4f}"),
    ("change", lambda card: change(card.end.base.median, _in_use(card).median)),
    ("held-out samples", lambda card: str(card.end.samples)),
    ("gain", _gain),
    ("guard", guard_of),
    ("bad samples", _bad),
    ("clean runs", lambda card: _NONE if card.normal is None else str(card.normal.samples)),
    ("calibration calls", lambda card: _NONE if card.calls is None else f"{card.calls:,}"),
)


def sections(shown: Sequence[Shown]) -> list[Section]:
    """What is told of the cards, in the order in which it is read."""
    cards = [one.card for one in shown]
    parts = [
        Section("what they are", _lines(_FACTS, cards)),
        Section("on held-out noise", _lines(_MEASURED, cards)),
        Section("levels sigma / alpha", _levels([card.table for card in cards])),
    ]
    if weights := _weights([card.table for card in cards]):
        parts.append(Section(f"weights that differ most from those of {shown[0].name}", weights))
    return parts


def _lines(facts: Sequence[tuple[str, Callable[[Card], str]]], cards: Sequence[Card]) -> tuple[Line, ...]:
    """What is known of any of the cards."""
    lines = (Line(name, tuple(read(card) for card in cards)) for name, read in facts)
    return tuple(line for line in lines if set(line.cells) != {_NONE})


def _levels(tables: Sequence[SolverTable]) -> tuple[Line, ...]:
    with np.errstate(divide="ignore", over="ignore"):
        ratios = [table.sigmas / table.alphas for table in tables]
    most = max(map(len, ratios))
    chosen = range(most) if most <= _LEVELS else [*range(_LEVELS // 2), *range(most - _LEVELS // 2, most)]
    lines, before = [], -1
    for k in chosen:
        if k != before + 1:
            lines.append(Line("…", ("…",) * len(tables)))
        lines.append(Line(f"level {k}", tuple(f"{one[k]:.4g}" if k < len(one) else "" for one in ratios)))
        before = k
    return tuple(lines)


def _frame(table: SolverTable) -> str:
    """The scale that states are kept on; weights of different scales are not compared."""
    alphas, sigmas = table.alphas, table.sigmas
    scales = {
        "alpha = 1": alphas,
        "alpha + sigma = 1": alphas + sigmas,
        "alpha² + sigma² = 1": np.hypot(alphas, sigmas),
    }
    return next((name for name, one in scales.items() if np.allclose(one, 1, rtol=1e-6)), "a scale of its own")


def _weights(tables: Sequence[SolverTable]) -> tuple[Line, ...]:
    """The entries of the normal form that differ most from the first table's, where they can be compared."""
    first = tables[0]
    alike = [one.nfe == first.nfe and _frame(one) == _frame(first) for one in tables]
    forms: list[Array] = [np.column_stack([one.a, one.b])[1:] for one in tables]
    same = [form for form, compared in zip(forms, alike, strict=True) if compared]
    apart = np.max([np.abs(form - same[0]) for form in same], axis=0)
    lines = []
    for flat in np.argsort(-apart, axis=None, kind="stable")[:_WEIGHTS]:
        k, j = (int(n) for n in np.unravel_index(flat, apart.shape))
        if apart[k, j] > 0:
            cells = (f"{form[k, j]:.4g}" if compared else _NONE for form, compared in zip(forms, alike, strict=True))
            lines.append(Line(f"{'x0' if j == 0 else f'D{j - 1}'} in x{k + 1}", tuple(cells)))
    return tuple(lines)


def differences(shown: Sequence[Shown]) -> list[str]:
    """Why numbers of these cards may not be compared, a sentence each; every card is compared with the first."""
    first, found = shown[0], []
    for other in shown[1:]:
        mine, theirs, names = first.card, other.card, f"{first.name} and {other.name}"
        if mine.table.distance(theirs.table) == 0:
            found.append(f"{names} are the same sampler.")
        if (said := _other_model(mine, theirs)) is not None:
            found.append(f"{names} are cards of {said}: their errors say nothing about each other.")
        elif (said := _other_call(mine.call, theirs.call)) is not None:
            found.append(f"{names} were made for other calls of the pipeline: {said}.")
        if mine.nfe != theirs.nfe:
            found.append(f"{names} make {mine.nfe} and {theirs.nfe} network calls: their weights are not compared.")
        elif _frame(mine.table) != _frame(theirs.table):
            scales = " and ".join(_frame(card.table) for card in (mine, theirs))
            found.append(f"{names} keep states on different scales, {scales}: their weights are not compared.")
        (a, b) = (float(card.table.sigmas[0]) for card in (mine, theirs))
        if not same_start(a, b):
            found.append(f"{names} start at different noise levels: sigma {a:.4g} and {b:.4g}.")
    return found


def _other_model(mine: Card, theirs: Card) -> str | None:
    """In what the models differ, or None."""
    one, other = mine.model, theirs.model
    weights = one.fingerprint or str(sorted(one.networks.items()))
    if weights != (other.fingerprint or str(sorted(other.networks.items()))):
        if one.name != other.name:
            return f"different models, {one_line(one.name)} and {one_line(other.name)}"
        return f"different weights of {one_line(one.name)}"
    if one.adapters != other.adapters:
        return "one model with different adapters"
    if one.guidance != other.guidance:
        return f"different guidance, {_scale(one.guidance)} and {_scale(other.guidance)}"
    return None


def _scale(guidance: float | None) -> str:
    return "none" if guidance is None else f"{guidance:g}"


def _other_call(mine: CallInfo | None, theirs: CallInfo | None) -> str | None:
    """In what the calls of a pipeline differ, or None."""
    if mine is None or theirs is None:
        return None if mine is theirs else "only one of them was made for a pipeline"
    if mine.pipeline != theirs.pipeline:
        return f"{one_line(mine.pipeline)} and {one_line(theirs.pipeline)}"
    keys = [key for key in sorted({*mine.settings, *theirs.settings}) if _setting(mine, key) != _setting(theirs, key)]
    if keys:
        return ", ".join(one_line(f"{key} {_setting(mine, key)} and {_setting(theirs, key)}") for key in keys[:3])
    if set(mine.conditions) != set(theirs.conditions):
        return one_line(f"given beside the prompt: {', '.join(mine.conditions) or 'nothing'} and "
                        f"{', '.join(theirs.conditions) or 'nothing'}")  # fmt: skip
    return None


def _setting(call: CallInfo, key: str) -> str:
    return str(call.settings.get(key, "none"))
