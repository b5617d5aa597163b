"""What one sample teaches: its equations, its part in a trial, and the decisions that follow from it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longstride.adaptation.intake import Reason
from longstride.adaptation.proposing import Cards, candidate
from longstride.adaptation.settings import AdaptationSettings
from longstride.adaptation.state import State
from longstride.adaptation.trial import Measured, measured
from longstride.calibration.endpoint.jacobian import linearised
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.normal_equations import NormalEquations
from longstride.network import Network
from longstride.schedule import Schedule

__all__ = ["Sample", "added", "decide", "measured_sample"]

_log = logging.getLogger(__name__)
_PIXELS = Residual()


@dataclass(frozen=True)
class Sample:
    """One sample that may count.

    Attributes:
        equations: Its equations at the card in use.
        squared: Squared error of the card in use.
        trial: What it says of the candidate; None: there was none.
    """

    equations: NormalEquations
    squared: float
    trial: Measured | None


def measured_sample(
    state: State, cards: Cards, settings: AdaptationSettings, network: Network, noise: Tensor, target: Tensor
) -> Sample:
    """Run the card beside its neighbours, and the candidate under trial, on one sample.

    Args:
        state: The state.
        cards: The cards.
        settings: The settings.
        network: The network, bound to the sample.
        noise: First state ``(1, *)``.
        target: Its converged solution ``(1, *)``.
    """
    loss = state.sums.loss(settings.robust, cards.calibrated.end.calibrated.median**2)
    found = linearised(
        network, noise, target, cards.table, cards.parameters, _PIXELS, loss.root_weight, settings.batch_size
    )
    trial = None
    if state.trial is not None and not state.won:
        number = len(state.trial.squared)
        trial = measured(network, noise, target, cards.of(state.trial), cards.base, number)
    return Sample(NormalEquations.of(found.columns, found.left), float(found.squared[0]), trial)


def added(now: State, then: State, sample: Sample, settings: AdaptationSettings) -> Reason | None:
    """Add a sample that was measured at the state ``then`` to the state ``now``; why not, if it cannot count."""
    if now.lineage != then.lineage:
        return "late"
    if not (np.isfinite(sample.equations.pack()).all() and np.isfinite(sample.squared)):
        return "non_finite"
    sums = now.sums.plus(sample.equations, sample.squared, settings.forgetting, settings.cap)
    if not np.isfinite(sums.equations.pack()).all():
        return "non_finite"
    now.sums = sums
    same = now.trial is not None and then.trial is not None and np.array_equal(now.trial.values, then.trial.values)
    if now.trial is not None and same and sample.trial is not None and not now.won:
        now.trial.see(sample.trial, sample.squared)
    return None


def decide(state: State, cards: Cards, settings: AdaptationSettings, schedule: Schedule | None) -> None:
    """End the trial if its candidate has won or lost; begin one if there is none.

    Args:
        state: The state.
        cards: The cards.
        settings: The settings.
        schedule: The network's schedule; None: unknown.
    """
    if state.won:
        return
    if state.trial is None:
        state.trial = candidate(state, cards, settings, schedule)
        if state.trial is not None:
            state.tried_at, state.counters = state.sums.seen, state.counters.plus(candidates=1)
        return
    verdict, reason = state.trial.verdict(cards.of(state.trial), cards.base, settings)
    if verdict == "won":
        state.won, state.counters = reason, state.counters.plus(proposed=1)
    elif verdict != "open":
        _log.info("candidate %d is dropped: %s", state.trial.number, reason)
        state.drop_trial(too_far=verdict == "worse")
        state.counters = state.counters.plus(lost=1)
