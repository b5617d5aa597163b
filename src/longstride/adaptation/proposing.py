"""From sums to a candidate, and from a candidate that has won to a card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from longstride.adaptation.region import bounded_step, box, largest_move
from longstride.adaptation.settings import AdaptationSettings
from longstride.adaptation.state import State
from longstride.adaptation.trial import Trial
from longstride.arrays import Array
from longstride.card import CARD_VERSION, Card
from longstride.card_parts import ModelInfo, ScheduleInfo, TableData
from longstride.guard.normal import fit_normal
from longstride.parameters import Parameters
from longstride.reports import EndReport, Errors
from longstride.schedule import Schedule
from longstride.table import SolverTable
from longstride.version import __version__

__all__ = ["Cards", "Proposal", "candidate", "next_table", "proposed_card"]

#: The ridge grows by this factor with every candidate that went too far, up to so many times.
_MORE, _TIMES = 2.0, 3


@dataclass(frozen=True)
class Proposal:
    """A card that surely won on live samples that it was not fitted to.

    Attributes:
        card: The card. Its weights are bound to no digest, since the network may be another one than the calibration's.
        reason: Why it is proposed.
        errors: Errors on the live samples of its trial: of the card in use (``"card"``), the new one (``"fitted"``) and
            the base (``"base"``).
        samples: Number of these samples.
        move: Largest distance of a free number from the card that the calibration made.
    """

    card: Card
    reason: str
    errors: dict[str, Errors]
    samples: int
    move: float


@dataclass(frozen=True)
class Cards:
    """The card that the calibration made, and the card in use.

    Attributes:
        calibrated: The calibration's.
        current: The one in use.
    """

    calibrated: Card
    current: Card

    @cached_property
    def parameters(self) -> Parameters:
        """The free numbers: those of the default calibration."""
        return Parameters(self.current.nfe, levels=True, column=True)

    @cached_property
    def table(self) -> SolverTable:
        """Table of the card in use, as it is fitted."""
        return self.parameters.prepared(self.current.table)

    @cached_property
    def anchor(self) -> SolverTable:
        """Table of the calibration's card, as it is fitted."""
        return self.parameters.prepared(self.calibrated.table)

    @cached_property
    def base(self) -> SolverTable:
        """The base."""
        return self.current.base_table

    @cached_property
    def values(self) -> Array:
        """Free numbers of the card in use, ``(p,)``."""
        return self.parameters.values(self.table)

    def of(self, trial: Trial) -> SolverTable:
        """Table of a candidate."""
        return self.parameters.with_values(self.table, trial.values)

    def move(self, table: SolverTable) -> float:
        """Largest distance of a free number of ``table`` from the calibration's."""
        return largest_move(self.parameters, self.anchor, table)


def candidate(state: State, cards: Cards, settings: AdaptationSettings, schedule: Schedule | None) -> Trial | None:
    """A candidate to be tried; None if the sums hold too few samples or promise too little.

    Args:
        state: The state, without a trial.
        cards: The cards.
        settings: The settings.
        schedule: Gives the network times of the new levels; None: they are not told.
    """
    sums = state.sums
    if sums.effective < settings.fewest or sums.seen - state.tried_at < settings.every:
        return None
    change = _change(state, cards, settings)
    if not change.any() or not sums.equations.moved(change).energy <= (1 - settings.gain) * sums.equations.energy:
        return None
    values = cards.values + change
    table = cards.parameters.with_values(cards.table, values)
    times = None if schedule is None else tuple(schedule.time(table.sigmas).tolist())
    return Trial.begin(state.tries + 1, values, times, sums.effective, settings)


def next_table(state: State, cards: Cards, settings: AdaptationSettings) -> SolverTable:
    """The table that the sums promise most of, whatever they promise."""
    return cards.parameters.with_values(cards.table, cards.values + _change(state, cards, settings))


def _change(state: State, cards: Cards, settings: AdaptationSettings) -> Array:
    ridge = settings.ridge * _MORE ** min(state.too_far, _TIMES)
    low, high = box(cards.parameters, cards.anchor, cards.table, settings.step, settings.bound)
    return bounded_step(state.sums.equations, ridge, low, high)


def proposed_card(state: State, cards: Cards, settings: AdaptationSettings, model: ModelInfo | None) -> Card:
    """The card of a candidate that has won.

    Args:
        state: The state; its trial is the candidate's.
        cards: The cards.
        settings: The settings.
        model: The new card's description of the model; default: that of the card in use, without digests of weights.
    """
    trial, card = state.trial, cards.current
    assert trial is not None
    table, errors = cards.of(trial), trial.errors()
    end = EndReport(
        errors["base"],
        errors["fitted"],
        len(trial.squared),
        None,
        settings.reference_steps,
        (),
        True,
        stability=trial.stability(table, cards.base),
    )
    said = {
        **asdict(settings),
        "samples": len(trial.squared) + round(trial.fitted),
        "held_out": len(trial.squared),
        "seed": None,
        "lineage": list(state.lineage),
        "move": cards.move(table),
    }
    about = model or card.model.model_copy(update={"fingerprint": None, "networks": {}, "adapters": {}})
    update = {
        "version": CARD_VERSION,
        "longstride": __version__,
        "method": "adaptation",
        "settings": said,
        "model": about,
        "schedule": ScheduleInfo(family=card.schedule.family, times=None if trial.times is None else list(trial.times)),
        "data": TableData.of(table),
        "steps": [],
        "search": None,
        "end": end,
        "calls": state.counters.calls,
        "guard": None,
        "normal": fit_normal(np.array(trial.statistics)),
    }
    return card.model_copy(update=update)
