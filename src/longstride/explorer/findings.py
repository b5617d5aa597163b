"""A finished proof of concept: its sentence, its reasons, its numbers, and the samplers to look at."""

from __future__ import annotations

from dataclasses import dataclass

from longstride.explorer.scene import Choice, Classical, FromFile, Scene
from longstride.explorer.shelf import Shelf
from longstride.report import decide, headline_of, load_language, reason_of, recommendation_of
from longstride.report.language import Language
from longstride.report.numbers import numbers_of
from longstride.report.outcome import Outcome, Pair
from longstride.report.words import label_of

__all__ = ["Finding", "Line", "finding_of"]


@dataclass(frozen=True)
class Line:
    """A sampler that was measured.

    Attributes:
        label: For people.
        calls: Network calls per sample.
        rmse: Root-mean-square error to the converged solution.
        ratio: The error relative to today's sampler, with the ends of its interval, as text.
    """

    label: str
    calls: int
    rmse: float
    ratio: str


@dataclass(frozen=True)
class Finding:
    """What a page shows of an outcome.

    Attributes:
        recommendation: What to do.
        headline: The bottom line.
        reasons: ``(speaks, text)``, the weightiest first; ``speaks`` is 1 for adoption, -1 against it, 0 to watch.
        lines: The samplers, the least error first at every number of calls.
        flips: Pictures from the same noise.
        scene: The scene in which the samplers can be drawn again.
        choices: Today's sampler, the same with fewer calls, and the calibrated one if its book is there.
        calls: Calls of the calibrated sampler in the pictures; None if nothing was measured.
    """

    recommendation: str
    headline: str
    reasons: tuple[tuple[int, str], ...]
    lines: tuple[Line, ...]
    flips: tuple[Pair, ...]
    scene: Scene
    choices: tuple[Choice, ...]
    calls: int | None


def finding_of(shelf: Shelf, name: str) -> Finding:
    """What an outcome on the shelf says.

    Raises:
        InputError: the file is damaged or no outcome, or the extra packages for its sentences are missing.
    """
    outcome, language = shelf.outcome(name), load_language("en")
    decision = decide(outcome)
    return Finding(
        recommendation_of(decision.recommendation, language),
        headline_of(decision.headline, language),
        tuple((one.speaks, reason_of(one, language)) for one in decision.reasons),
        _lines(outcome, language),
        outcome.pictures.flips if outcome.pictures is not None else (),
        Scene(outcome.subject.model, outcome.subject.guidance, seed=outcome.seed),
        _choices(outcome, decision.closest, shelf.book_beside(name)),
        decision.closest,
    )


def _lines(outcome: Outcome, language: Language) -> tuple[Line, ...]:
    if outcome.failed or outcome.reference is None:
        return ()
    found = []
    for one in numbers_of(outcome):
        ratio = one.ratio
        ends = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
        found.append(
            Line(label_of(one.sampler, language), one.sampler.calls, one.rmse.value, f"{ratio.value:.2f}{ends}")
        )
    return tuple(sorted(found, key=lambda line: (line.calls, line.rmse)))


def _choices(outcome: Outcome, calls: int | None, book: str | None) -> tuple[Choice, ...]:
    solver, today = outcome.today
    found: list[Choice] = [Classical(solver, today)]
    if calls is not None:
        found.append(Classical(solver, calls))
        found += [] if book is None else [FromFile(book, calls)]
    return tuple(found)
