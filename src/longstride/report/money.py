"""What it costs and what it saves, for the page: tiles, seconds per picture, one-time cost, projections."""

from __future__ import annotations

from typing import Any

from longstride.evaluation.bootstrap import Interval
from longstride.report.decision import Decision
from longstride.report.language import Language
from longstride.report.numbers import DAYS_PER_MONTH, Saving, numbers_of, saving
from longstride.report.outcome import Outcome
from longstride.report.table import interval_cell
from longstride.report.words import label_of

__all__ = ["cost_of", "tiles_of"]


def tiles_of(outcome: Outcome, decision: Decision, language: Language) -> list[dict[str, str]]:
    """The few numbers under the bottom line: no savings beside a refusal, and none at all if nothing was measured."""
    _, calls = language.text, decision.closest
    ours = next((n for n in numbers_of(outcome) if (n.sampler.name, n.sampler.calls) == ("calibrated", calls)), None)
    if ours is None or calls is None:
        return []
    tiles = [
        (_("Network calls"), f"{outcome.today[1]} → {calls}", _("per picture")),
        (_("Error, times today's"), language.number(ours.ratio.value), _ends(ours.ratio, language)),
    ]
    saved = saving(outcome, calls) if decision.calls is not None else None
    if saved is not None:
        share = _("{speed} times as fast", speed=language.number(saved.speed.value))
        tiles.append((_("Seconds saved per picture"), language.number(saved.seconds.value), share))
    if saved is not None and saved.money is not None:
        money = language.money(saved.money.value, outcome.figures.currency)
        tiles.append((_("Saved per month"), money, _ends(saved.money, language, outcome.figures.currency)))
    elif saved is not None and saved.images is not None and saved.images_at_most is not None:
        most = _("at most {images}", images=language.whole(saved.images_at_most))
        tiles.append((_("Pictures until paid back"), language.whole(saved.images), most))
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def _ends(found: Interval, language: Language, currency: str | None = None) -> str:
    """The ends of an interval in words."""
    if found.low is None or found.high is None:
        return language.text("no interval: too few samples")
    low, high = (
        language.number(end) if currency is None else language.money(end, currency) for end in (found.low, found.high)
    )
    return language.text("95 % interval {low} to {high}", low=low, high=high)


def cost_of(outcome: Outcome, decision: Decision, language: Language) -> dict[str, Any] | None:
    """The section on cost; None if nothing was timed."""
    found = [one for one in numbers_of(outcome) if one.seconds is not None]
    ours = sorted((one for one in found if one.sampler.kind == "calibrated"), key=lambda one: one.sampler.calls)
    today = next((one for one in found if (one.sampler.name, one.sampler.calls) == outcome.today), None)
    if today is None or today.seconds is None or not ours or decision.closest is None:
        return None
    timed = []
    for one in (today, *ours):
        saved = None if one is today else saving(outcome, one.sampler.calls)
        timed.append(
            {
                "name": label_of(one.sampler, language),
                "calls": one.sampler.calls,
                "seconds": interval_cell("seconds", one.seconds, language),
                "speed": None if saved is None else interval_cell("speed", saved.speed, language),
                "recommended": one is not today and one.sampler.calls == decision.calls,
            }
        )
    choices = [(one.sampler.calls, one.seconds.value) for one in ours if one.seconds is not None]
    chosen = next(n for n, (calls, _) in enumerate(choices) if calls == decision.closest)
    saved = saving(outcome, decision.closest)
    assert saved is not None
    return {
        "timed": timed,
        "once": _once(outcome, language),
        "spent": outcome.cost.seconds,
        "today": today.seconds.value,
        "choices": choices,
        "chosen": chosen,
        "calls": choices[chosen][0],
        "projection": _projection(outcome, today.seconds.value, choices[chosen][1], saved, language),
        "even": _even(outcome.cost.seconds, today.seconds.value, choices[chosen][1], saved.images, language),
    }


def _once(outcome: Outcome, language: Language) -> list[dict[str, str]]:
    """What calibration cost."""
    _, cost, price = language.text, outcome.cost, outcome.figures.price_per_hour
    lines = [
        (_("Numbers of calls"), language.listed([str(one.calls) for one in outcome.calibrated])),
        (_("Runs of the network"), language.whole(cost.passes)),
        (_("Time"), language.duration(cost.seconds)),
    ]
    if price is not None:
        lines.append((_("Money"), language.money(cost.seconds * price / 3600, outcome.figures.currency)))
    return [{"name": name, "value": value} for name, value in lines]


def _projection(outcome: Outcome, today: float, ours: float, saved: Saving, language: Language) -> list[dict[str, str]]:
    """Money and time that follow from the user's figures; dashes where a figure is missing."""
    _, figures = language.text, outcome.figures
    price, volume, none = figures.price_per_hour, figures.images_per_month, "–"

    def month(seconds: float) -> str:
        if price is None or volume is None:
            return none
        return language.money(seconds * volume * price / 3600, figures.currency)

    images = none if saved.images is None else language.number(saved.images)
    days = none if saved.months is None else language.duration(saved.months * DAYS_PER_MONTH * 86_400)
    lines = [
        ("now", _("Per month, today"), month(today)),
        ("then", _("Per month, calibrated"), month(ours)),
        ("saved", _("Saved per month"), month(saved.seconds.value)),
        (
            "spent",
            _("Calibration, once"),
            none if saved.spent is None else language.money(saved.spent, figures.currency),
        ),
        ("images", _("Pictures until paid back"), images),
        ("days", _("Time until paid back"), days),
    ]
    return [{"key": key, "name": name, "value": value} for key, name, value in lines]


def _even(spent: float, today: float, ours: float, images: float | None, language: Language) -> dict[str, Any]:
    """Coordinates of the break-even lines; the script moves them by the same rule."""
    most = 1000.0 if images is None else 2.5 * images
    top = max(today * most, spent + ours * most)

    def y(value: float) -> float:
        return round(185 - 165 * value / top, 1)

    label = "" if images is None else language.text("{number} pictures", number=language.number(images))
    return {
        "today": y(today * most),
        "start": y(spent),
        "ours": y(spent + ours * most),
        "x": None if images is None else 180,
        "y": None if images is None else y(today * images),
        "label": label,
    }
