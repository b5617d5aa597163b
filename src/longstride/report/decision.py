"""From an outcome to a recommendation, by a rule that was fixed before anything was measured.

**The same quality.** A sampler with fewer calls is *not worse* than today's sampler if the whole interval of its error
ratio lies at or below 1, and its Fréchet distance to the converged samples is not surely larger.

**The number of calls.** The smallest calibrated number of calls, below today's, that is not worse and that the gate of
the calibration accepted.

**Do not adopt** if there is no such number; if a classical solver with as few calls is not worse either, because
switching to it costs nothing; if no time is surely saved; if calibration is paid back after more than twelve months of
the given volume; if the network returned NaN or infinity; or if the measurement is unfinished.

**Adopt with monitoring** if more than 2 % of samples may be more than 4 times as far off as today (upper bound, 95 %
confidence); if the sampler amplifies errors of the network more than twice as much as its base; if it needs its guard;
or if the measurement was a quick one.

**Adopt** otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from longstride.report.numbers import Numbers, Saving, numbers_of, saving
from longstride.report.outcome import Calibrated, Outcome
from longstride.rollout import METRICS

__all__ = ["MOST_MONTHS", "STEADY", "TAIL", "Decision", "Fact", "Recommendation", "decide"]

#: Largest share of samples that may be more than 4 times as far off: what a roll-out tolerates, too.
TAIL = METRICS["much_worse"].tolerance
#: Largest gain of a table that needs no watching, as a multiple of its base's.
STEADY = 2.0
#: Calibration must be paid back within so many months.
MOST_MONTHS = 12


class Recommendation(StrEnum):
    """What to do."""

    ADOPT = "adopt"
    MONITOR = "adopt with monitoring"
    DECLINE = "do not adopt"


@dataclass(frozen=True)
class Fact:
    """A sentence before it is put into words.

    Attributes:
        code: Which sentence.
        values: The numbers and names in it.
        speaks: Whether it speaks for (1) or against (−1) adoption, or calls for monitoring (0).
    """

    code: str
    values: Mapping[str, Any] = field(default_factory=dict)
    speaks: int = -1


@dataclass(frozen=True)
class Decision:
    """A recommendation.

    Attributes:
        recommendation: What to do.
        headline: The bottom line.
        reasons: Why, the weightiest first.
        calls: The number of calls that is recommended, or None.
        closest: The calibrated number of calls whose pictures and costs are shown: the recommended one, or else the one
            with the least error; None if nothing was measured.
    """

    recommendation: Recommendation
    headline: Fact
    reasons: tuple[Fact, ...]
    calls: int | None
    closest: int | None


def decide(outcome: Outcome) -> Decision:
    """The recommendation that follows from an outcome; see the rule above."""
    if outcome.failed:
        return _declined(Fact(outcome.failed, {"detail": outcome.detail}), [], None)
    found = numbers_of(outcome)
    said = {one.calls: one for one in outcome.calibrated}
    entered = sorted(
        (one for one in found if one.sampler.kind == "calibrated" and one.sampler.calls < outcome.today[1]),
        key=lambda one: one.sampler.calls,
    )
    if not entered:
        return _declined(Fact("nothing-compared", _today(outcome)), [], None)
    accepted = [one for one in entered if said[one.sampler.calls].how != "base"]
    if not accepted:
        least = min(entered, key=lambda one: one.rmse.value).sampler.calls
        reasons = [Fact("gate-kept", {"calls": [one.sampler.calls for one in entered], **_held_out(said[least])})]
        return _declined(Fact("kept", _today(outcome)), [*reasons, *_switch(outcome, found, None)], least)
    fine = [one for one in accepted if not_worse(one)]
    if not fine:
        return _none(outcome, found, accepted)
    return _some(outcome, found, fine[0], said[fine[0].sampler.calls])


def not_worse(one: Numbers) -> bool:
    """Whether a sampler is not worse than today's, by error and by Fréchet distance."""
    return one.ratio.high is not None and one.ratio.high <= 1 and not _distance_grew(one)


def _distance_grew(one: Numbers) -> bool:
    change = one.sampler.distance_change
    return change is not None and change.low is not None and change.low > 0


def _today(outcome: Outcome) -> dict[str, Any]:
    name, calls = outcome.today
    found = outcome.sampler(name, calls)
    return {"sampler": name if found is None else found.label, "today": calls}


def _held_out(card: Calibrated) -> dict[str, Any]:
    return {"base": card.base, "before": card.held_out[0], "after": card.held_out[1]}


def _declined(headline: Fact, reasons: list[Fact], closest: int | None) -> Decision:
    return Decision(Recommendation.DECLINE, headline, tuple(reasons), None, closest)


def _none(outcome: Outcome, found: tuple[Numbers, ...], accepted: list[Numbers]) -> Decision:
    """No number of calls is surely not worse: it is worse at all of them, or it cannot be told."""
    best = min(accepted, key=lambda one: one.ratio.value)
    values = {**_today(outcome), "calls": best.sampler.calls, "ratio": best.ratio}
    reasons = [Fact("distance-worse", {**values, "change": best.sampler.distance_change})] * _distance_grew(best)
    surely = all(one.ratio.low is not None and one.ratio.low > 1 for one in accepted)
    if surely:
        reasons.append(Fact("more-calls", values))
    elif best.ratio.high is None:
        reasons.append(Fact("too-few", {"samples": len(best.sampler.errors)}))
    elif best.ratio.high > 1:
        reasons.append(Fact("more-samples", {**values, "samples": len(best.sampler.errors), "needed": _needed(best)}))
    code = "worse" if surely else ("distance" if _distance_grew(best) else "uncertain")
    return _declined(Fact(code, values), [*reasons, *_switch(outcome, found, None)], best.sampler.calls)


def _needed(one: Numbers) -> int | None:
    """Samples that would make the interval as narrow as it must be, if the ratio stays; None if it is not below 1."""
    ratio = one.ratio
    if ratio.high is None or ratio.value >= 1:
        return None
    wanted = len(one.sampler.errors) * ((ratio.high - ratio.value) / (1 - ratio.value)) ** 2
    size: int = 10 ** max(0, int(math.log10(wanted)) - 1)
    return math.ceil(wanted / size) * size


def _switch(outcome: Outcome, found: tuple[Numbers, ...], below: int | None) -> list[Fact]:
    """That a classical solver reaches today's quality with fewer calls, if it does so with at most ``below`` calls."""
    most = outcome.today[1] - 1 if below is None else below
    fine = [one for one in found if one.sampler.kind != "calibrated" and one.sampler.calls <= most and not_worse(one)]
    if not fine:
        return []
    best = min(fine, key=lambda one: (one.sampler.calls, one.rmse.value))
    bases = {one.calls: one.base for one in outcome.calibrated}
    label = bases[best.sampler.calls] if best.sampler.name == "best_classical" else best.sampler.label
    values = {"classical": label, "calls": best.sampler.calls, "ratio": best.ratio, **_today(outcome)}
    return [Fact("switch", values)]


def _some(outcome: Outcome, found: tuple[Numbers, ...], one: Numbers, card: Calibrated) -> Decision:
    """A number of calls is not worse: whether it is worth it, and what must be watched."""
    calls, saved = one.sampler.calls, saving(outcome, one.sampler.calls)
    values = {**_today(outcome), "calls": calls, "ratio": one.ratio, "saving": saved, "figures": outcome.figures}
    against = _against(outcome, values, saved)
    switch = _switch(outcome, found, calls)
    if switch:
        return _declined(Fact("classical-enough", switch[0].values), [*switch, *against], calls)
    reasons = [Fact("not-worse", {**values, "samples": len(one.sampler.errors)}, 1)]
    if against:
        return _declined(Fact(against[0].code + "-headline", against[0].values), [*against, *reasons], calls)
    if outcome.subject.guidance is not None:
        reasons.append(Fact("guided", {"guidance": outcome.subject.guidance}, 1))
    watch, later = _watch(outcome, one, card), _switch(outcome, found, None)
    reasons += [Fact("paid-back", {**values, "cost": outcome.cost}, 1)] if saved is not None else []
    reasons.append(Fact("classical-more", later[0].values, 1) if later else Fact("classical-none", values, 1))
    watched = {f"{fact.code}-fine" for fact in watch}
    reasons += [fact for fact in _fine(one, card) if fact.code not in watched]
    kind = Recommendation.MONITOR if watch else Recommendation.ADOPT
    return Decision(kind, Fact("same-quality", values, 1), (*watch, *reasons), calls, calls)


def _against(outcome: Outcome, values: Mapping[str, Any], saved: Saving | None) -> list[Fact]:
    """That it is not worth its cost."""
    if saved is None:
        return []
    if saved.images is None:
        return [Fact("no-time", {**values, "seconds": saved.seconds})]
    if saved.months is not None and saved.months > MOST_MONTHS:
        return [Fact("never-pays", {**values, "months": saved.months, "cost": outcome.cost})]
    return []


def _watch(outcome: Outcome, one: Numbers, card: Calibrated) -> list[Fact]:
    """What calls for monitoring."""
    found = []
    if one.much_worse.at_most > TAIL:
        found.append(Fact("tail", {"tail": one.much_worse, "limit": TAIL}, 0))
    if card.gain is not None and card.gain[1] > STEADY * card.gain[0]:
        found.append(Fact("gain", {"base": card.gain[0], "gain": card.gain[1]}, 0))
    if card.needs_guard:
        found.append(Fact("guard", {}, 0))
    if outcome.quick:
        found.append(Fact("quick", {"counts": outcome.counts}, 0))
    return found


def _fine(one: Numbers, card: Calibrated) -> list[Fact]:
    """What was looked at and is in order."""
    found = [Fact("tail-fine", {"tail": one.much_worse, "limit": TAIL}, 1), Fact("gate-fine", _held_out(card), 1)]
    if card.gain is not None:
        found.append(Fact("gain-fine", {"base": card.gain[0], "gain": card.gain[1]}, 1))
    return found
