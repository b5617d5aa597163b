"""Whether a card is for what a pipeline is about to do, and its plan if it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.book import CardBook
from longstride.book_parts import Unjudged
from longstride.card import Card, same_start
from longstride.card_parts import LevelData
from longstride.errors import CardError, InputError
from longstride.families import told_levels
from longstride.integrations.plan import Plan, plan_of_table
from longstride.integrations.recorded import Role
from longstride.integrations.run_levels import LevelRequest, Levels, levels_of
from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.nodes import Nodes

__all__ = ["other_settings", "plan_of_card"]

#: Settings of a scheduler that a card is only for one value of.
_ONE_VALUE = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
    "shift",
    "flow_shift",
    "use_dynamic_shifting",
    "thresholding",
    "clip_sample",
)


def plan_of_card(
    loaded: Card | CardBook, settings: SchedulerSettings, request: LevelRequest, levels: Levels, role: Role = "alone"
) -> Plan:
    """The plan of a card for a run.

    Args:
        loaded: The card, or the book to choose it from.
        settings: Settings of the scheduler; ``guidance_scale`` among them chooses the card.
        request: What the pipeline asks for.
        levels: Levels that the classical solver would visit.
        role: Whether flagged samples are made again, or the base makes them.

    Raises:
        CardError: the card is for another run. The message says what differs.
        InputError: the card is for another kind of network.
    """
    kind = "book" if isinstance(loaded, CardBook) else "card"
    nfe = _calls_asked(loaded, settings, request, levels)
    if not request.custom:
        levels = _levels_of_card(loaded, settings, request, levels)
    guidance = settings.config.get("guidance_scale")
    chosen = _of_book(loaded, nfe, guidance) if isinstance(loaded, CardBook) else _checked(loaded, nfe, guidance)
    card = chosen.near if isinstance(chosen, Unjudged) else chosen
    if card.needs_guard and role == "alone":
        raise CardError(card.needs_guard)
    if differing := other_settings(card, settings.config):
        raise CardError(f"this {kind} was calibrated with {differing[0]}")
    _check_mu(card, request, kind)
    plan = plan_of_table(chosen.table, _times(loaded, chosen), settings)
    wanted = told_levels(settings.noise_process.family, levels.alphas, levels.sigmas)
    _check_start(float(plan.ratios[0]), float(wanted[0]), kind)
    shape = chosen.model.shape
    note = chosen.note if isinstance(chosen, Unjudged) else ""
    if role == "base":
        plan = _plan_of_base(card, plan, settings)
    made = chosen if isinstance(chosen, Card) else None
    return replace(plan, shape=None if shape is None else tuple(shape), note=note, card=made)


def _plan_of_base(card: Card, plan: Plan, settings: SchedulerSettings) -> Plan:
    """The plan of a card's base, with the times that the pipeline has at its levels.

    Raises:
        CardError: the pipeline has other times at the levels of the card's table.
    """
    told = settings.times_of(Nodes(plan.table.alphas, plan.table.sigmas).ratios[:-1])
    if not np.allclose(told, plan.times, rtol=1e-3, atol=1e-3 * float(np.abs(plan.times).max())):
        raise CardError(
            "the base of this card cannot make samples again here: its network times are not those of the pipeline"
        )
    base = card.base_table
    return plan_of_table(base, settings.times_of(Nodes(base.alphas, base.sigmas).ratios[:-1]), settings)


def _cards_of(loaded: Card | CardBook) -> list[Card]:
    return [entry.card for entry in loaded.entries] if isinstance(loaded, CardBook) else [loaded]


def _calls_asked(loaded: Card | CardBook, settings: SchedulerSettings, request: LevelRequest, levels: Levels) -> int:
    """Network calls that a pipeline asks for.

    Raises:
        CardError: the pipeline's levels are its own, and they are not those that a card was calibrated with.
    """
    if not request.custom:
        return levels.steps
    asked = LevelData.model_validate(vars(request))
    known = [(card, card.call.levels) for card in _cards_of(loaded) if card.call is not None and card.call.levels]
    for card, given in known:
        # Another shift of the same levels is another thing, and is said as such.
        if given.model_copy(update={"mu": None}).same(asked.model_copy(update={"mu": None})):
            return card.nfe
    if settings.process == "flow" and request.timesteps is None and len(request.sigmas or ()) == levels.steps:
        # Flow pipelines pass the levels that their scheduler would choose by itself.
        usual = np.linspace(1, 1 / levels.steps, levels.steps)
        if np.allclose(np.asarray(request.sigmas), usual, atol=1e-3):
            return levels.steps
    kind = "book" if isinstance(loaded, CardBook) else "card"
    raise CardError(f"the pipeline sets levels of its own, this {kind} has others")


def _levels_of_card(
    loaded: Card | CardBook, settings: SchedulerSettings, request: LevelRequest, levels: Levels
) -> Levels:
    """Levels that the card's own solver would visit. The classes of two solvers may begin at different levels."""
    solver = (getattr(loaded, "scheduler", None) or {}).get("solver", settings.solver)
    return levels if solver == settings.solver else levels_of(settings.as_solver(solver), request)


def _checked(card: Card, nfe: int, guidance: float | None) -> Card:
    """A card that is for some network calls and a guidance scale; None is a scale that nobody has said.

    Raises:
        CardError: it is for others.
    """
    if card.nfe != nfe:
        raise _differs("card", "network calls", [card.nfe], nfe)
    if guidance is not None and card.unsaid_guidance:
        raise CardError(
            "this card does not say its guidance, which was the pipeline's default (its version is below 4): calibrate "
            "again, leave guidance_scale= out, or use longstride.integrations.use_card"
        )
    own = card.model.guidance
    if guidance is not None and not (own is None and guidance == 1) and not _same(own, guidance):
        raise _differs("card", "guidance", [own], guidance)
    return card


def _same(one: float | None, other: float) -> bool:
    return one is not None and math.isclose(one, other, rel_tol=1e-9)


def _of_book(book: CardBook, nfe: int, guidance: float | None) -> Card | Unjudged:
    """The table of a book for some network calls and a guidance scale, as :meth:`~longstride.book.CardBook.choose`.

    Raises:
        CardError: there is none, or there are several.
    """
    if nfe not in book.nfes:
        raise _differs("book", "network calls", book.nfes, nfe)
    try:
        found = book.find(nfe, guidance)
    except InputError as error:
        raise CardError(f"{error} with guidance_scale=") from None
    if found is None:
        raise _differs("book", "guidance", [entry.guidance for entry in book.entries if entry.nfe == nfe], guidance)
    return found


def _differs(kind: str, what: str, known: list[Any], wanted: Any) -> CardError:
    return CardError(f"this {kind} is for {what} {', '.join(map(str, known))}, not {wanted}")


def other_settings(card: Card, config: Mapping[str, Any]) -> list[str]:
    """Settings of a scheduler that differ from those that a card was calibrated with, in words."""
    pairs = [(name, (card.scheduler or {}).get(name), config.get(name)) for name in _ONE_VALUE]
    return [
        f"{name} {then}, the pipeline has {now}" for name, then, now in pairs if then != now and None not in (then, now)
    ]


def _check_mu(card: Card, request: LevelRequest, kind: str) -> None:
    """Make sure that a flow is shifted as in the calibration.

    Raises:
        CardError: it is not.
    """
    then = None if card.call is None or card.call.levels is None else card.call.levels.mu
    if then is not None and request.mu is not None and not math.isclose(then, request.mu, rel_tol=1e-3, abs_tol=1e-6):
        raise CardError(
            f"this {kind} was calibrated at the shift mu = {then:.4g}, the pipeline has {request.mu:.4g}: another "
            "resolution or number of frames"
        )


def _times(loaded: Card | CardBook, chosen: Card | Unjudged) -> Array:
    """Network times of all states of a table.

    Raises:
        CardError: the network's times are unknown.
    """
    if isinstance(chosen, Card):
        if chosen.schedule.times is not None:
            return np.array(chosen.schedule.times)
    elif isinstance(loaded, CardBook) and loaded.schedule is not None:
        return np.asarray(loaded.schedule.schedule().time(chosen.table.sigmas))
    raise CardError(
        "this card was calibrated on a plain function and does not know the network's times: calibrate a card on "
        "this pipeline"
    )


def _check_start(first: float, wanted: float, kind: str) -> None:
    """Make sure that a card starts at the noise level that the pipeline starts at.

    Raises:
        CardError: it does not.
    """
    if not same_start(first, wanted):
        raise CardError(
            f"this {kind} starts at noise level {first:.4g}, the pipeline at {wanted:.4g}: another process, shift or "
            "timestep_spacing"
        )
