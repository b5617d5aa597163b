r"""The trial of a candidate: on live samples that came after it was fitted.

A candidate is fixed before the samples of its trial arrive, so that all of them are held out. On each sample it is
compared with the card in use and with the base. With the errors x of the candidate and y of the other one, the mean of
:math:`x / (x + y)` has bounds that hold at every moment (:mod:`longstride.rollout.bounds`). The candidate has won as
soon as 1/2 is ruled out against both, and the gate of the calibration accepts it on all samples of the trial. It has
lost when it is surely not better than one of them, or when patience ends.

Candidate n since the card was last changed is tried at the level :math:`\delta / (n (n + 1))`. The levels sum up to
delta, so that many candidates together are not proposed by chance more often than one would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from longstride.adaptation.settings import AdaptationSettings
from longstride.arrays import Array, infinite_for_nan
from longstride.calibration.acceptance.gate import FEWEST, instability, objection
from longstride.calibration.acceptance.stability import gains, largest_weights
from longstride.calibration.reference.solve import squared_errors
from longstride.guard.statistics import Recorder
from longstride.network import Network
from longstride.reports import Errors, Stability
from longstride.rollout.bounds import Bounds
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["Measured", "Trial", "Verdict", "measured", "ratio_share"]

#: ``worse``: surely not better. ``lost``: patience has ended.
Verdict = Literal["open", "won", "worse", "lost"]
#: Samples of a trial that the gain is measured on.
_GAINS = FEWEST
_NAMES = ("card", "base")


@dataclass(frozen=True)
class Measured:
    """One sample of a trial.

    Attributes:
        candidate: Squared error of the candidate; infinite for NaN.
        base: Squared error of the base.
        statistics: Statistics of the candidate's run, ``(F,)``.
        gains: Squared gains of the candidate and of the base; None: not measured.
    """

    candidate: float
    base: float
    statistics: Array
    gains: tuple[float, float] | None = None


def measured(
    network: Network, noise: Tensor, target: Tensor, candidate: SolverTable, base: SolverTable, number: int
) -> Measured:
    """Measure a candidate and the base on one sample.

    Args:
        network: The network, bound to the sample.
        noise: First state ``(1, *)``.
        target: Its converged solution ``(1, *)``.
        candidate: The candidate.
        base: The base.
        number: Number of the sample in the trial, from 0; gains are measured on the first few.
    """
    recorder = Recorder(candidate)
    ends = [Run(noise, candidate).finish(network, recorder), Run(noise, base).finish(network)]
    own, other = (float(infinite_for_nan(squared_errors(end, target))[0]) for end in ends)
    found = None
    if number < _GAINS:
        of_own, of_other = (float(gains(network, noise, table, [1], [number])[0]) for table in (candidate, base))
        found = (of_own, of_other)
    return Measured(own, other, recorder.read()[0], found)


def ratio_share(x: float, y: float) -> float | None:
    """The share x / (x + y) of two errors; None if it tells nothing, since both are infinite."""
    if x == y:
        return 0.5 if math.isfinite(x) else None
    if math.isinf(x) or math.isinf(y):
        return 1.0 if math.isinf(x) else 0.0
    return x / (x + y)


@dataclass
class Trial:
    """What is known of a candidate.

    Attributes:
        number: Number of the candidate since the card was last changed, from 1.
        values: Its free numbers, shape ``(p,)``.
        times: Network times of its levels; None: unknown.
        fitted: Number of samples that it was fitted to, by their weights.
        bounds: Of the share of its error in the sum with that of the card, and of the base.
        squared: Squared errors of the candidate, the card and the base, ``(n, 3)``.
        gains: Squared gains of the candidate and the base, ``(m, 2)``.
        statistics: Statistics of its runs, ``(n, F)``.
    """

    number: int
    values: Array
    times: tuple[float, ...] | None
    fitted: float
    bounds: dict[str, Bounds]
    squared: list[tuple[float, float, float]] = field(default_factory=list)
    gains: list[tuple[float, float]] = field(default_factory=list)
    statistics: list[list[float]] = field(default_factory=list)

    @staticmethod
    def begin(
        number: int, values: Array, times: tuple[float, ...] | None, fitted: float, settings: AdaptationSettings
    ) -> Trial:
        """The trial of a new candidate."""
        level = settings.level / (number * (number + 1))
        return Trial(number, values, times, fitted, {name: Bounds(level, [0.5]) for name in _NAMES})

    def see(self, found: Measured, card: float) -> None:
        """Take a sample; ``card`` is the squared error of the card in use."""
        self.squared.append((found.candidate, card, found.base))
        self.statistics.append(found.statistics.tolist())
        if found.gains is not None:
            self.gains.append(found.gains)
        for name, other in zip(_NAMES, (card, found.base), strict=True):
            share = ratio_share(math.sqrt(found.candidate), math.sqrt(other))
            if share is not None:
                self.bounds[name].see(share)

    def stability(self, candidate: SolverTable, base: SolverTable) -> Stability:
        """Gains of the candidate and of the base."""
        with np.errstate(invalid="ignore"):
            own, other = np.sqrt(np.mean(self.gains, axis=0)).tolist() if self.gains else (math.inf, 0.0)
        return Stability(own, other, largest_weights(candidate), largest_weights(base))

    def verdict(self, candidate: SolverTable, base: SolverTable, settings: AdaptationSettings) -> tuple[Verdict, str]:
        """How the trial stands, and why."""
        for name, bounds in self.bounds.items():
            if bounds.lower >= 0.5:
                return "worse", f"surely not better than the {name}, after {len(self.squared)} live samples"
        won = all(bounds.upper <= 0.5 for bounds in self.bounds.values())
        reason = self._objection(candidate, base, settings) if won else "that it is better is not sure yet"
        if not reason:
            return "won", f"surely better than the card and the base, on {len(self.squared)} live samples"
        if len(self.squared) >= settings.patience:
            return "lost", f"after {len(self.squared)} live samples: {reason}"
        return "open", reason

    def _objection(self, candidate: SolverTable, base: SolverTable, settings: AdaptationSettings) -> str:
        """What the gate of the calibration says against the candidate; empty: nothing."""
        new, card, old = np.array(self.squared).T
        return (
            objection(new, card, settings.margin, "the card")
            or objection(new, old, settings.margin)
            or instability(self.stability(candidate, base), settings.stability)
        )

    def errors(self) -> dict[str, Errors]:
        """Errors of the card (``"card"``), the candidate (``"fitted"``) and the base (``"base"``)."""
        new, card, old = np.array(self.squared).T
        return {"card": Errors.of(card), "fitted": Errors.of(new), "base": Errors.of(old)}
