"""The page: an outcome and its decision in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from longstride.files import write_atomically
from longstride.report.about import commands_of, facts_of, limits_of, terms_of
from longstride.report.charts import curve, marker_of, series_of
from longstride.report.decision import Decision, Recommendation, decide
from longstride.report.language import Language
from longstride.report.money import cost_of, tiles_of
from longstride.report.numbers import Numbers, numbers_of
from longstride.report.outcome import Outcome, Pair
from longstride.report.risks import risks_of, stages_of, worst_of
from longstride.report.stages import card_name, plan_of
from longstride.report.table import columns_of, errors_csv, rows_of, samplers_csv
from longstride.report.templating import TEMPLATES, environment, safe
from longstride.report.words import headline_of, label_of, reason_of, recommendation_of, rule_of

__all__ = ["render", "write_page"]

_SIGNS = {Recommendation.ADOPT: "✓", Recommendation.MONITOR: "◐", Recommendation.DECLINE: "×"}


def write_page(outcome: Outcome, path: Path, language: Language, folder: str) -> Decision:
    """Write the page; returns the decision that it states.

    Args:
        outcome: What was measured.
        path: HTML file.
        language: Language of the page.
        folder: Folder of the cards and the outcome, as it is written in commands.

    Raises:
        InputError: the file cannot be written, or the optional packages are missing.
    """
    decision = decide(outcome)
    write_atomically(path, render(outcome, decision, language, folder).encode())
    return decision


def render(outcome: Outcome, decision: Decision, language: Language, folder: str) -> str:
    """The page as HTML; arguments as in :func:`write_page`."""
    pages = environment()

    def text(message: str, **values: object) -> Any:
        found = safe(language.text(message))
        return found.format(**values) if values else found

    pages.globals["_"] = text
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = numbers_of(outcome)
    values: dict[str, Any] = {
        "lang": language.code,
        "outcome": outcome,
        "decision": decision,
        "day": language.day(outcome.date),
        "style": safe((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": safe(script),
        "script_hash": f"sha256-{hashed}",
        "data": safe(_json(json.loads(outcome.without_pictures().dumps()))),
        "words": safe(_json(_script_words(language))),
        **_top(outcome, decision, language),
        **_look(outcome, language),
        **_quality(outcome, decision, found, language),
        "cost": cost_of(outcome, decision, language),
        "figures": outcome.figures,
        "risks": risks_of(outcome, decision, found, language),
        "worst": worst_of(outcome, language),
        "evaluated": language.whole(outcome.counts.evaluated),
        **_rollout(outcome, decision, folder, language),
        "facts": facts_of(outcome, language),
        "limits": limits_of(outcome, language),
        "terms": terms_of(language),
        "commands": commands_of(outcome, folder, language),
        "csv_link": _link(samplers_csv(found), "text/csv"),
        "samples_link": _link(errors_csv(outcome), "text/csv"),
    }
    return str(pages.get_template("page.html").render(values))


def _json(value: object) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _link(text: str, kind: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _script_words(language: Language) -> dict[str, str]:
    """Sentences of the script."""
    _ = language.text
    return {
        "left": _("left"),
        "right": _("right"),
        "side": _("Pair {number}, {side}"),
        "progress": _("Pair {number} of {count}"),
        "result": _("You took the calibrated picture in {taken} of {count} pairs (95 % interval {low} to {high})."),
        "same": _("The interval holds one half: by these pairs you cannot tell the two apart."),
        "better": _("The interval lies above one half: you like the calibrated pictures better."),
        "worse": _("The interval lies below one half: you like today's pictures better."),
        "pictures": _("{number} pictures"),
    }


def _top(outcome: Outcome, decision: Decision, language: Language) -> dict[str, Any]:
    """The bottom line."""
    _ = language.text
    kinds = {1: ("for", "+", _("For:")), 0: ("watch", "!", _("To watch:")), -1: ("against", "×", _("Against:"))}
    reasons = []
    for fact in decision.reasons:
        kind, mark, word = kinds[fact.speaks]
        reasons.append({"kind": kind, "mark": mark, "word": word, "text": reason_of(fact, language)})
    return {
        "sign": _SIGNS[decision.recommendation],
        "recommendation": recommendation_of(decision.recommendation, language),
        "headline": headline_of(decision.headline, language),
        "tiles": tiles_of(outcome, decision, language),
        "reasons": reasons,
        "rule": rule_of(language),
    }


def _look(outcome: Outcome, language: Language) -> dict[str, Any]:
    """The pictures to flip between and to choose between."""
    pictures, _ = outcome.pictures, language.text
    if pictures is None:
        return {"pictures": None, "small": False, "strips": [], "pairs": [], "solution": ""}
    few = _("{calls} calls", calls=pictures.calls)
    ways = {
        "today": (_("Today"), _("{calls} calls", calls=outcome.today[1])),
        "fewer": (_("Today's sampler with fewer"), few),
        "calibrated": (_("Calibrated"), few),
        "converged": (_("Converged"), _("{calls} calls", calls=outcome.counts.reference_calls)),
    }
    strips = []
    for way, (name, note) in ways.items():
        images = [getattr(pair, way) for pair in pictures.flips]
        if images and all(images):
            strips.append({"name": name, "note": note, "images": images})
    pairs = [_drawn(pair) for pair in pictures.blind]
    solution = language.listed([str(n + 1) for n, pair in enumerate(pairs) if pair["key"] == "A"])
    return {
        "pictures": pictures,
        "small": pictures.width <= 96,
        "strips": strips,
        "pairs": pairs,
        "solution": solution,
    }


def _drawn(pair: Pair) -> dict[str, str]:
    """A pair with its sides drawn by lot, from its seed."""
    first = hashlib.sha256(str(pair.seed).encode()).digest()[0] % 2 == 0
    left, right = (pair.calibrated, pair.today) if first else (pair.today, pair.calibrated)
    return {"key": "A" if first else "B", "left": left, "right": right}


def _quality(outcome: Outcome, decision: Decision, found: tuple[Numbers, ...], language: Language) -> dict[str, Any]:
    """The charts and the table."""
    if not found:
        return {"rows": []}
    _ = language.text
    today = next(one for one in found if (one.sampler.name, one.sampler.calls) == outcome.today)
    series = series_of(found, outcome.today)
    level = None if today.sampler.distance is None else today.sampler.distance.value
    rmse = curve("rmse", series, lambda n: n.rmse, language, today.rmse.value)
    charts = [
        {
            "id": "rmse",
            "svg": safe(rmse),
            "title": _("Error (RMSE)"),
            "note": _("to the converged solution, against network calls. Both axes are logarithmic."),
        }
    ]
    if outcome.counts.dimensions:
        distance = curve("distance", series, lambda n: n.sampler.distance, language, level)
        note = _("to the converged pictures, against network calls.")
        charts.append({"id": "distance", "svg": safe(distance), "title": _("Fréchet distance"), "note": note})
    legend = [
        {
            "name": label_of(one.points[0].sampler, language),
            "look": one.look,
            "dash": " ".join(f"{part * one.look.width:g}" for part in one.look.dash),
            "marker": safe(marker_of(one.look)),
        }
        for one in series
    ]
    return {
        "rows": rows_of(found, outcome, decision.calls, language),
        "columns": columns_of(language),
        "charts": charts,
        "legend": legend,
        "today_label": label_of(today.sampler, language),
    }


def _rollout(outcome: Outcome, decision: Decision, folder: str, language: Language) -> dict[str, Any]:
    """The staged plan; no stages if nothing is to be adopted."""
    plan = plan_of(outcome, decision)
    if plan is None or decision.calls is None:
        return {"stages": []}
    text = json.dumps(plan, indent=1)
    return {
        "stages": stages_of(plan, outcome, language),
        "plan": text,
        "plan_link": _link(text + "\n", "application/json"),
        "card": f"{folder}/{card_name(decision.calls)}",
    }
