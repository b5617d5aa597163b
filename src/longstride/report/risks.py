"""What can go wrong, what was measured of it, and what watches it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longstride.report.decision import Decision
from longstride.report.language import Language
from longstride.report.numbers import DAYS_PER_MONTH, Numbers
from longstride.report.outcome import Calibrated, Outcome
from longstride.report.stages import requests_before
from longstride.rollout import METRICS

__all__ = ["risks_of", "stages_of", "worst_of"]


def _gate(said: Calibrated, language: Language) -> str:
    """What the gate of the calibration saw."""
    _, (before, after) = language.text, (language.number(one) for one in said.held_out)
    if said.how == "base":
        return _(
            "Kept the classical solver: {base}, {before}; calibrated {after}.",
            base=said.base,
            before=before,
            after=after,
        )
    return _("Accepted on held-out samples: {before} ({base}) → {after}.", base=said.base, before=before, after=after)


def _gain(gain: tuple[float, float], language: Language) -> str:
    """How much the table and its base amplify errors."""
    _, (base, own) = language.text, (language.number(one) for one in gain)
    return _("Errors of the network are amplified by {own}; by the classical base, {base}.", own=own, base=base)


def _tails(ours: Numbers, language: Language) -> str:
    """How many samples are farther off than today, by how much."""
    _ = language.text
    first, *others = (
        {
            "factor": one.factor,
            "share": language.percent(one.share),
            "count": one.count,
            "samples": language.whole(one.samples),
            "most": language.percent(one.at_most),
        }
        for one in ours.tails
    )
    sentences = [_("Farther off than today: {share} ({count} of {samples}).", **first)]
    sentences += [
        _("More than {factor} times as far: {share} ({count} of {samples}; at most {most} of all).", **one)
        for one in others
    ]
    return " ".join(sentences)


def risks_of(
    outcome: Outcome, decision: Decision, found: Sequence[Numbers], language: Language
) -> list[dict[str, str]]:
    """The risks as rows: what, what was measured, how it is watched."""
    _ = language.text
    ours = next((n for n in found if (n.sampler.name, n.sampler.calls) == ("calibrated", decision.closest)), None)
    said = next((one for one in outcome.calibrated if one.calls == decision.closest), None)
    none = _("Not measured.")
    gate = none if said is None else _gate(said, language)
    gain = none if said is None or said.gain is None else _gain(said.gain, language)
    tails = none if ours is None else _tails(ours, language)
    limits = {name: language.percent(METRICS[name].tolerance, 1) for name in ("flags", "drift", "much_worse")}
    rows = [
        (
            _("Quality falls on average"),
            gate,
            _("Live requests are solved again in the background; back when the error is surely larger."),
        ),
        (
            _("A few pictures get much worse"),
            tails,
            _("Back when surely more than {limit} of the samples are 4 times as far off.", limit=limits["much_worse"]),
        ),
        (
            _("Small errors of the network grow"),
            gain,
            _("Back at once, for all processes, when a picture holds NaN or infinity."),
        ),
        (
            _("Requests change"),
            _("Only the prompts, classes and guidance of the evaluation samples."),
            _(
                "Statistics of every run, which cost no network call: back at {drift} more alarms of drift, or {flags} "
                "more flags.",
                drift=limits["drift"],
                flags=limits["flags"],
            ),
        ),
        (
            _("The model changes"),
            _("Weights {digest}.", digest=outcome.subject.fingerprint[:12]),
            _("The card refuses other weights and another guidance; calibrate again, or longstride recalibrate."),
        ),
        (
            _("It is not faster in the service"),
            _("Seconds per picture on this device."),
            _(
                "Back when requests surely take {limit} times as long.",
                limit=language.number(METRICS["latency"].tolerance),
            ),
        ),
    ]
    return [{"name": name, "found": found, "watched": watched} for name, found, watched in rows]


def worst_of(outcome: Outcome, language: Language) -> list[dict[str, Any]]:
    """The worst samples with their errors in words."""
    pictures, today = outcome.pictures, outcome.reference
    ours = None if pictures is None else outcome.sampler("calibrated", pictures.calls)
    if pictures is None or today is None or ours is None:
        return []
    found = []
    for one in pictures.worst:
        before, after = today.errors[one.number], ours.errors[one.number]
        text = language.text(
            "Sample {number}: error {before} → {after}",
            number=one.number,
            before=language.number(before, 2),
            after=language.number(after, 2),
        )
        found.append({"pair": one.pair, "text": text})
    return found


def stages_of(plan: Mapping[str, Any], outcome: Outcome, language: Language) -> list[dict[str, str]]:
    """The stages as rows; their time only where a volume was given."""
    volume, rows = outcome.figures.images_per_month, []
    for stage in plan["stages"]:
        most = stage["at_most"].get("error")
        days = None if volume is None else requests_before(stage) / volume * DAYS_PER_MONTH
        rows.append(
            {
                "share": language.percent(stage["share"], 1 if stage["share"] < 1 else 3),
                "requests": language.whole(stage["requests"]),
                "measured": language.whole(stage["measured"]) if stage["measured"] else "–",
                "most": "–" if most is None else language.number(most, 2),
                "time": "" if days is None else language.duration(days * 86400),
            }
        )
    return rows
