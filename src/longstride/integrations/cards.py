"""Whether a card is for what a pipeline is about to do, and its plan if it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from longstride.book import CardBook
from longstride.card import Card, same_start
from longstride.errors import CardError
from longstride.integrations.plan import Plan, plan_of_table
from longstride.integrations.run_levels import LevelRequest, Levels, levels_of
from longstride.integrations.scheduler_settings import SchedulerSettings

__all__ = ["plan_of_card"]

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


def plan_of_card(loaded: Card | CardBook, settings: SchedulerSettings, request: LevelRequest, levels: Levels) -> Plan:
    """The plan of a card for a run.

    Args:
        loaded: The card, or the book to choose it from.
        settings: Settings of the scheduler; ``guidance_scale`` among them chooses the card.
        request: What the pipeline asks for.
        levels: Levels that the classical solver would visit.

    Raises:
        CardError: the card is for another run. The message says what differs.
        InputError: the card is for another kind of network.
    """
    kind = "book" if isinstance(loaded, CardBook) else "card"
    nfe = _calls_asked(settings, request, levels)
    if not request.custom:
        levels = _levels_of_card(loaded, settings, request, levels)
    if nfe is None:
        raise CardError(f"the pipeline sets levels of its own, this {kind} has others")
    card = _chosen(loaded, kind, nfe, settings.config.get("guidance_scale"))
    _check_settings(card, kind, settings.config)
    if card.schedule.times is None:
        raise CardError(
            "this card was calibrated on a plain function and does not know the network's times: calibrate a card on "
            "this pipeline"
        )
    plan = plan_of_table(card.table, np.array(card.schedule.times), settings)
    wanted = levels.sigmas if settings.process == "flow" else levels.ratios
    _check_start(float(plan.ratios[0]), float(wanted[0]), kind)
    return plan if card.model.shape is None else replace(plan, shape=tuple(card.model.shape))


def _calls_asked(settings: SchedulerSettings, request: LevelRequest, levels: Levels) -> int | None:
    """Network calls that a pipeline asks for, or None if its levels are its own."""
    if not request.custom:
        return levels.steps
    if settings.process != "flow" or request.timesteps is not None or len(request.sigmas or ()) != levels.steps:
        return None
    # Flow pipelines pass the levels that their scheduler would choose by itself.
    usual = np.linspace(1, 1 / levels.steps, levels.steps)
    return levels.steps if np.allclose(np.asarray(request.sigmas), usual, atol=1e-3) else None


def _levels_of_card(
    loaded: Card | CardBook, settings: SchedulerSettings, request: LevelRequest, levels: Levels
) -> Levels:
    """Levels that the card's own solver would visit. The classes of two solvers may begin at different levels."""
    solver = (getattr(loaded, "scheduler", None) or {}).get("solver", settings.solver)
    return levels if solver == settings.solver else levels_of(settings.as_solver(solver), request)


def _chosen(loaded: Card | CardBook, kind: str, nfe: int, guidance: float | None) -> Card:
    """The card for some network calls and a guidance scale; None is a scale that nobody has said.

    Raises:
        CardError: there is none, or there are several.
    """
    all_cards = [entry.card for entry in loaded.entries] if isinstance(loaded, CardBook) else [loaded]
    cards = [card for card in all_cards if card.nfe == nfe]
    if not cards:
        raise _differs(kind, "network calls", sorted({card.nfe for card in all_cards}), nfe)
    scales = sorted({card.model.guidance for card in cards}, key=lambda scale: scale or 0.0)
    if guidance is None:
        if len(scales) > 1:
            shown = ", ".join(map(str, scales))
            raise CardError(f"this book is for guidance {shown}: say which with guidance_scale=")
        return cards[0]
    unguided = None if guidance == 1 else guidance
    fitting = [card for card in cards if card.model.guidance in (guidance, unguided)]
    if not fitting:
        raise _differs(kind, "guidance", scales, guidance)
    return fitting[0]


def _differs(kind: str, what: str, known: list[Any], wanted: Any) -> CardError:
    return CardError(f"this {kind} is for {what} {', '.join(map(str, known))}, not {wanted}")


def _check_settings(card: Card, kind: str, config: Mapping[str, Any]) -> None:
    """Make sure that the pipeline has the settings that the card was calibrated with.

    Raises:
        CardError: one of them differs.
    """
    for name in _ONE_VALUE:
        then, now = (card.scheduler or {}).get(name), config.get(name)
        if then != now and None not in (then, now):
            raise CardError(f"this {kind} was calibrated with {name} {then}, the pipeline has {now}")


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
