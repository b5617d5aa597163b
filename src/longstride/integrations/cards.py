"""Whether a card is for what a pipeline is about to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from longstride.book import CardBook
from longstride.card import Card, same_start
from longstride.errors import CardError
from longstride.integrations.levels import Levels, levels_of
from longstride.integrations.plan import Plan, plan_of_table
from longstride.integrations.reference import Process

__all__ = ["asked_of_card", "plan_of_card"]

#: Settings of a scheduler that a card is only for one value of.
_SETTINGS = (
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


def asked_of_card(
    loaded: Card | CardBook,
    levels: Levels,
    config: Mapping[str, Any],
    process: Process,
    steps: int | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    mu: float | None,
) -> tuple[int | None, Levels]:
    """What a pipeline asks of a card.

    Args:
        loaded: The card or book.
        levels: That the classical solver would visit.
        config: Settings of the scheduler.
        process: Scale of the pipeline's states.
        steps: As ``set_timesteps`` was told; None where the pipeline sets levels of its own.
        timesteps: Likewise.
        sigmas: Likewise.
        mu: Likewise.

    Returns:
        Network calls, None for levels that are the pipeline's own; and the levels that the solver would visit that the
        card was calibrated with: the classes of two solvers may begin at different ones.
    """
    if steps is None:
        # Flow pipelines pass the levels that their scheduler would choose by itself.
        usual = np.linspace(1, 1 / levels.steps, levels.steps)
        near = timesteps is None and process == "flow" and sigmas is not None and len(sigmas) == levels.steps
        return (levels.steps if near and np.allclose(np.asarray(sigmas), usual, atol=1e-3) else None), levels
    solver = (getattr(loaded, "scheduler", None) or {}).get("solver", config["solver"])
    if solver == config["solver"]:
        return levels.steps, levels
    said = {name: value for name, value in config.items() if name not in config.get("_use_default_values", ())}
    return levels.steps, levels_of(said, solver, process, steps, mu=mu)


def plan_of_card(
    loaded: Card | CardBook,
    nfe: int | None,
    levels: Levels,
    guidance: float | None,
    config: Mapping[str, Any],
    process: Process,
) -> Plan:
    """The plan of a card for a run.

    Args:
        loaded: The card, or the book to choose it from.
        nfe: Network calls; None where the pipeline sets levels of its own.
        levels: That the classical solver would visit.
        guidance: Guidance scale of the pipeline, or None where nobody has said it.
        config: Settings of the scheduler.
        process: Scale of the pipeline's states.

    Raises:
        CardError: the card is for another run; says in what it differs.
        InputError: it is for another kind of network.
    """
    cards = [entry.card for entry in loaded.entries] if isinstance(loaded, CardBook) else [loaded]
    kind = "book" if isinstance(loaded, CardBook) else "card"
    if nfe is None:
        raise CardError(f"the pipeline sets levels of its own, this {kind} has others")
    cards = [card for card in cards if card.nfe == nfe] or _differs(
        kind, "network calls", sorted({card.nfe for card in cards}), nfe
    )
    scales = sorted({card.model.guidance for card in cards}, key=lambda scale: scale or 0.0)
    if guidance is None and len(scales) > 1:
        shown = ", ".join(map(str, scales))
        raise CardError(f"this book is for guidance {shown}: say which with guidance_scale=")
    if guidance is not None:
        cards = [card for card in cards if card.model.guidance in (guidance, None if guidance == 1 else guidance)]
        cards = cards or _differs(kind, "guidance", scales, guidance)
    card = cards[0]
    for name in _SETTINGS if card.scheduler is not None else ():
        then, now = card.scheduler.get(name), config.get(name)  # type: ignore[union-attr]
        if then != now and None not in (then, now):
            raise CardError(f"this {kind} was calibrated with {name} {then}, the pipeline has {now}")
    if card.schedule.times is None:
        raise CardError("this card was calibrated on a plain function and does not know the network's times")
    plan = plan_of_table(card.table, np.array(card.schedule.times), config, process)
    first, wanted = (float(one[0]) for one in (plan.ratios, levels.sigmas if process == "flow" else levels.ratios))
    if not same_start(first, wanted):
        raise CardError(
            f"this {kind} starts at noise level {first:.4g}, the pipeline at {wanted:.4g}: another process, shift or "
            "timestep_spacing"
        )
    return plan if card.model.shape is None else replace(plan, shape=tuple(card.model.shape))


def _differs(kind: str, what: str, known: list[Any], wanted: Any) -> list[Card]:
    shown = ", ".join(map(str, known))
    raise CardError(f"this {kind} is for {what} {shown}, not {wanted}")
