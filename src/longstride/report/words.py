"""A decision in words. Every sentence of the bottom line and its reasons stands here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from longstride.report.asked import FULL
from longstride.report.decision import MOST_MONTHS, TAIL, Fact, Recommendation
from longstride.report.language import Language
from longstride.report.outcome import Sampler

__all__ = ["headline_of", "label_of", "reason_of", "recommendation_of", "rule_of"]

Values = Mapping[str, Any]


def recommendation_of(found: Recommendation, language: Language) -> str:
    """The recommendation in two or three words."""
    _ = language.text
    return {
        Recommendation.ADOPT: _("Adopt"),
        Recommendation.MONITOR: _("Adopt with monitoring"),
        Recommendation.DECLINE: _("Do not adopt"),
    }[found]


def headline_of(fact: Fact, language: Language) -> str:
    """The bottom line: one sentence."""
    return _HEADLINES[fact.code](fact.values, language)


def reason_of(fact: Fact, language: Language) -> str:
    """One reason: one or two sentences."""
    return _REASONS[fact.code](fact.values, language)


def label_of(one: Sampler, language: Language) -> str:
    """Name of a sampler for people, whatever its number of calls."""
    if one.name == "calibrated":
        return language.text("Calibrated (longstride)")
    return language.text("Best classical solver") if one.name == "best_classical" else one.label


def rule_of(language: Language) -> list[str]:
    """The rule by which the recommendation follows from the numbers."""
    _ = language.text
    return [
        _(
            "The same quality: the whole interval of the error ratio lies at or below 1, and the Fréchet distance is "
            "not surely larger than today's."
        ),
        _(
            "The number of calls: the smallest calibrated number below today's that is not worse and that the gate of "
            "the calibration accepted. All numbers are looked at together: the intervals allow for that."
        ),
        _(
            "Do not adopt: there is no such number; or a classical solver with as few calls is not worse either; or "
            "no time is surely saved; or calibration is paid back after more than {months} months of the given "
            "volume; or the network returned NaN or infinity; or the measurement is unfinished.",
            months=MOST_MONTHS,
        ),
        _(
            "Adopt with monitoring: more than {limit} of samples may be more than 4 times as far off as today (upper "
            "bound, 95 % confidence); or the sampler amplifies errors of the network more than twice as much as its "
            "base; or it needs its guard; or the measurement was a quick one.",
            limit=language.percent(TAIL, 1),
        ),
        _("Adopt: otherwise."),
    ]


def _same_quality(v: Values, language: Language) -> str:
    _, saved = language.text, v["saving"]
    parts = {"calls": v["calls"], "today": v["today"], "ratio": language.interval(v["ratio"], digits=2)}
    if saved is None:
        return _(
            "The same quality with {calls} network calls instead of {today}: the error is {ratio} times today's.",
            **parts,
        )
    parts["images"] = language.whole(saved.images)
    if saved.money is not None:
        money = language.interval(saved.money, "money", currency=v["figures"].currency)
        return _(
            "The same quality with {calls} network calls instead of {today}: the error is {ratio} times today's, "
            "{money} saved per month, paid back after {images} pictures.",
            money=money,
            **parts,
        )
    return _(
        "The same quality with {calls} network calls instead of {today}: the error is {ratio} times today's, "
        "{speed} times as fast, paid back after {images} pictures.",
        speed=language.interval(saved.speed),
        **parts,
    )


def _ratio_text(v: Values, language: Language) -> str:
    return language.interval(v["ratio"], digits=2)


_HEADLINES: dict[str, Callable[[Values, Language], str]] = {
    "same-quality": _same_quality,
    "classical-enough": lambda v, t: t.text(
        "Calibration is not needed: {classical} reaches today's quality with {calls} network calls instead of {today}; "
        "its error is {ratio} times today's.",
        classical=v["classical"],
        calls=v["calls"],
        today=v["today"],
        ratio=_ratio_text(v, t),
    ),
    "worse": lambda v, t: t.text(
        "Fewer network calls cost quality here: even at its best, with {calls} calls instead of {today}, the error is "
        "{ratio} times today's.",
        calls=v["calls"],
        today=v["today"],
        ratio=_ratio_text(v, t),
    ),
    "distance": lambda v, t: t.text(
        "Fewer network calls change the pictures as a set: with {calls} calls instead of {today} the error is {ratio} "
        "times today's, but the Fréchet distance is surely larger.",
        calls=v["calls"],
        today=v["today"],
        ratio=_ratio_text(v, t),
    ),
    "uncertain": lambda v, t: t.text(
        "Not proven: with {calls} network calls instead of {today} the error is {ratio} times today's, and the "
        "interval does not lie at or below 1.",
        calls=v["calls"],
        today=v["today"],
        ratio=_ratio_text(v, t),
    ),
    "kept": lambda v, t: t.text(
        "Calibration does not help this model: its own test kept the classical solver at every number of network "
        "calls, and today's {sampler} with {today} calls stays.",
        sampler=v["sampler"],
        today=v["today"],
    ),
    "nothing-compared": lambda v, t: t.text(
        "Nothing to decide: no calibrated number of network calls lies below today's {today}.", today=v["today"]
    ),
    "no-time-headline": lambda v, t: t.text(
        "No time is surely saved: {calls} network calls instead of {today} give the same quality, but save {seconds} "
        "seconds per picture.",
        calls=v["calls"],
        today=v["today"],
        seconds=t.interval(v["seconds"], digits=2),
    ),
    "never-pays-headline": lambda v, t: t.text(
        "It does not pay: {calls} network calls instead of {today} give the same quality (error {ratio} times "
        "today's), but at this volume calibration is paid back after {months} months.",
        calls=v["calls"],
        today=v["today"],
        ratio=_ratio_text(v, t),
        months=t.number(v["months"], 2),
    ),
    "non-finite": lambda v, t: t.text(
        "Nothing can be recommended: the network returned NaN or infinity, so there is no quality to compare."
    ),
    "unfinished": lambda v, t: t.text(
        "Nothing can be recommended yet: the measurement was stopped before its end. The same command goes on."
    ),
}


def _more_samples(v: Values, language: Language) -> str:
    values = {"samples": language.whole(v["samples"])}
    if v["needed"] is None:
        return language.text("{samples} samples do not tell whether the error is larger than today's.", **values)
    return language.text(
        "{samples} samples do not decide. If the ratio stays, about {needed} samples would.",
        needed=language.whole(v["needed"]),
        **values,
    )


def _paid_back(v: Values, language: Language) -> str:
    cost, saved, _ = v["cost"], v["saving"], language.text
    values = {
        "seconds": language.interval(saved.seconds, digits=2),
        "spent": language.duration(cost.seconds),
        "images": language.whole(saved.images),
        "most": language.whole(saved.images_at_most),
    }
    return _(
        "A picture takes {seconds} seconds less. Calibration ran {spent} once: paid back after {images} pictures, "
        "{most} at most.",
        **values,
    )


_REASONS: dict[str, Callable[[Values, Language], str]] = {
    "not-worse": lambda v, t: t.text(
        "On {samples} samples that calibration did not see, the error is {ratio} times that of {sampler} with {today} "
        "calls: not worse.",
        samples=t.whole(v["samples"]),
        ratio=_ratio_text(v, t),
        sampler=v["sampler"],
        today=v["today"],
    ),
    "paid-back": _paid_back,
    "guided": lambda v, t: t.text(
        "Measured at guidance {guidance}: every network call runs the network twice, in all samplers alike.",
        guidance=t.number(v["guidance"]),
    ),
    "classical-more": lambda v, t: t.text(
        "Without calibration, the best classical solver needs {calls} calls for this: {classical}.",
        calls=v["calls"],
        classical=v["classical"],
    ),
    "classical-none": lambda v, t: t.text(
        "No classical solver that was measured reaches today's quality with fewer than {today} calls.",
        today=v["today"],
    ),
    "tail-fine": lambda v, t: t.text(
        "{count} of {samples} samples are more than 4 times as far off as today: at most {most} of all, with 95 % "
        "confidence.",
        count=v["tail"].count,
        samples=t.whole(v["tail"].samples),
        most=t.percent(v["tail"].at_most),
    ),
    "gate-fine": lambda v, t: t.text(
        "The gate of the calibration accepted it: on held-out samples the error fell from {before} ({base}) to "
        "{after}.",
        before=t.number(v["before"]),
        base=v["base"],
        after=t.number(v["after"]),
    ),
    "gain-fine": lambda v, t: t.text(
        "It is stable: it amplifies errors of the network by {gain}, its base by {base}.",
        gain=t.number(v["gain"], 2),
        base=t.number(v["base"], 2),
    ),
    "tail": lambda v, t: t.text(
        "{count} of {samples} samples are more than 4 times as far off as today. Up to {most} of all may be (95 % "
        "confidence), which is more than {limit}.",
        count=v["tail"].count,
        samples=t.whole(v["tail"].samples),
        most=t.percent(v["tail"].at_most, 3),
        limit=t.percent(v["limit"], 1),
    ),
    "gain": lambda v, t: t.text(
        "It amplifies errors of the network by {gain}, its base by {base}: more than twice as much.",
        gain=t.number(v["gain"], 2),
        base=t.number(v["base"], 2),
    ),
    "guard": lambda v, t: t.text("It is better than its base only with its guard, which must run in the service."),
    "quick": lambda v, t: t.text(
        "This was a quick measurement: {samples} samples in place of {full}, and {fitted} in calibration. It cannot "
        "show rare failures or small differences of the Fréchet distance.",
        full=t.whole(FULL.samples, 4),
        samples=t.whole(v["counts"].evaluated),
        fitted=t.whole(v["counts"].fitted + v["counts"].held_out),
    ),
    "switch": lambda v, t: t.text(
        "A change of the sampler alone saves calls, at no cost: {classical} with {calls} calls has {ratio} times "
        "today's error.",
        classical=v["classical"],
        calls=v["calls"],
        ratio=_ratio_text(v, t),
    ),
    "gate-kept": lambda v, t: t.text(
        "The gate kept the classical solver at {calls} calls. The closest: on held-out samples the error of {base} is "
        "{before}, that of the calibrated table {after}: not surely better, or not as stable.",
        calls=t.listed([str(one) for one in v["calls"]]),
        base=v["base"],
        before=t.number(v["before"]),
        after=t.number(v["after"]),
    ),
    "distance-worse": lambda v, t: t.text(
        "The Fréchet distance grew by {change}: the pictures as a set are farther from the converged ones.",
        change=t.interval(v["change"], digits=2),
    ),
    "more-calls": lambda v, t: t.text(
        "At all numbers of calls that were tried the error is surely larger than today's. More calls may do: try "
        "numbers between {calls} and {today}.",
        calls=v["calls"],
        today=v["today"],
    ),
    "too-few": lambda v, t: t.text("{samples} samples are too few for an interval.", samples=t.whole(v["samples"])),
    "more-samples": _more_samples,
    "no-time": lambda v, t: t.text(
        "The time saved per picture is {seconds} seconds: its interval reaches 0.",
        seconds=t.interval(v["seconds"], digits=2),
    ),
    "never-pays": lambda v, t: t.text(
        "Calibration ran {spent} and is paid back after {images} pictures: {months} months at this volume, more than "
        "{most}.",
        spent=t.duration(v["cost"].seconds),
        images=t.whole(v["saving"].images),
        months=t.number(v["months"], 2),
        most=MOST_MONTHS,
    ),
}
