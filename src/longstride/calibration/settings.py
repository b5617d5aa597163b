"""Settings of the Gauss–Newton calibration, and what they cost: samples of every step, and network calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.calibration.dense import FINE
from longstride.calibration.residuals import RESIDUALS
from longstride.calibration.scouting import TRAJECTORIES
from longstride.errors import InputError, unknown

__all__ = [
    "FITTED",
    "HELD_OUT",
    "GaussNewtonSettings",
    "fitted_samples",
    "last_steps",
    "most_calls",
    "most_finals",
    "whole_fit_samples",
]

#: Samples that are fitted and held out where nothing else is said; see :func:`fitted_samples`.
FITTED, HELD_OUT = 96, 48
#: Up to so many network calls more samples are fitted, and how many.
_FEW_CALLS, _MORE = 6, 128
#: Classical solvers times grids, at most.
_MOST_STARTS = 63


@dataclass(frozen=True)
class GaussNewtonSettings:
    """Settings of the Gauss–Newton calibration.

    Attributes:
        iterations: Most steps after the short fits. The first are those of whole fits, see :func:`whole_fit_samples`;
            the one that is used takes the others on all samples, each with a Jacobian of its own.
        scouts: How many classical solvers short fits start from; 0: the table that was passed is the only start.
        scout_iterations: Steps of a short fit.
        scout_samples: Samples that classical solvers are compared on, and that short fits see.
        final_calls: Network calls in samples that whole fits after the first may take in all; 0: none is made.
        final_samples: Samples that whole fits see at most. But they see no fewer than short fits do, and all where
            there is a single step.
        levels: Whether inner levels are free.
        column: Whether the weight of the first state in every row is.
        window: Rows weigh so many of the latest outputs, and the recurrence of the base stays; None: all outputs.
        residual: What is compared, one of :data:`~longstride.calibration.residuals.RESIDUALS`.
        robust: c² of the robust loss as a multiple of the median error; 0: plain squares.
        ridge: Pull towards where the steps on as many samples start, relative to the energy of each unknown.
        margin: The root-mean-square error on held-out noise may be above the base's by this part at most, or the base
            is kept; that most samples gain must be sure besides, see :func:`~longstride.calibration.gate.judge`.
        stability: The gain may be this many times the base's at most, or the base is kept; see
            :mod:`longstride.calibration.stability`.
    """

    iterations: int = 4
    scouts: int = 3
    scout_iterations: int = 1
    scout_samples: int = 16
    final_calls: int = 6_000
    final_samples: int = 48
    levels: bool = True
    column: bool = True
    window: int | None = None
    residual: str = "pixels"
    robust: float = 1.0
    ridge: float = 1e-6
    margin: float = 0.0
    stability: float = 4.0

    def __post_init__(self) -> None:
        counts = (self.iterations, self.scout_iterations, self.scout_samples, self.final_samples)
        if min(counts) < 1 or min(self.scouts, self.final_calls) < 0:
            raise InputError(f"expected at least one iteration and sample, and scouts and final_calls >= 0, got {self}")
        if not all(0 <= x < np.inf for x in (self.robust, self.ridge, self.margin)) or not self.stability > 0:
            raise InputError(f"expected finite robust, ridge and margin >= 0 and stability > 0, got {self}")
        if self.window is not None and self.window < 1:
            raise InputError(f"expected a window of at least 1 output, or None for all, got {self.window}")
        if self.residual not in RESIDUALS:
            raise unknown("residual", self.residual, RESIDUALS)


def fitted_samples(nfe: int) -> int:
    """Samples that are fitted where nothing else is said: more up to 6 network calls, where they are cheap and help.

    There errors have the heaviest tails, and fewer samples do not show them.
    """
    return _MORE if nfe <= _FEW_CALLS else FITTED


def whole_fit_samples(fitted: int, settings: GaussNewtonSettings) -> list[int]:
    """Samples of every step of a whole fit: at the last all that it sees, before it half as many.

    But never fewer than twice as many as short fits see, if there are. A single step sees all samples.
    """
    if settings.iterations == 1:
        return [fitted]
    sizes = [min(fitted, max(settings.final_samples, settings.scout_samples))]
    least = min(sizes[0], 2 * settings.scout_samples)
    while len(sizes) < settings.iterations - 1 and sizes[0] > least:
        sizes.insert(0, max(-(-sizes[0] // 2), least))
    return sizes


def last_steps(fitted: int, settings: GaussNewtonSettings) -> int:
    """Steps that the whole fit that is used takes on all samples."""
    return settings.iterations - len(whole_fit_samples(fitted, settings))


def _step_calls(nfe: int, settings: GaussNewtonSettings) -> int:
    """Network calls per sample of a Jacobian, with the run that it is made beside: about ``K³ / 6``."""
    reach = settings.window or nfe
    return nfe + sum((min(k, reach) + settings.levels + settings.column) * (nfe - k) for k in range(1, nfe))


def most_finals(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings) -> int:
    """How many whole fits there are at most: as many more than one as ``final_calls`` pay for."""
    sizes, few = whole_fit_samples(fitted, settings), min(settings.scout_samples, fitted)
    # Where a short fit saw all that there is, its model serves for no further step, and another one is made.
    jacobian = (sizes[-1] - few or sizes[-1]) * _step_calls(nfe, settings)
    trials = (sum(sizes) + len(sizes) * held_out) * nfe
    return 1 + min(max(settings.scouts - 1, 0), settings.final_calls // (jacobian + trials))


def most_calls(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings, reference_steps: int = 64) -> int:
    """Network calls in samples that a calibration makes at most, its reference included and guidance not.

    Args:
        nfe: Network calls K of the table; a step costs about ``K³ / 6`` per sample.
        fitted: Samples that are fitted.
        held_out: Samples that decide.
        settings: Of the calibration.
        reference_steps: Steps of the converged solution.
    """
    few, finals = min(settings.scout_samples, fitted), most_finals(nfe, fitted, held_out, settings)
    sizes, last = whole_fit_samples(fitted, settings), last_steps(fitted, settings)
    steps = finals * sizes[-1] + last * fitted
    steps += few * settings.scouts * settings.scout_iterations if settings.scouts > 1 else 0
    # A few trials of every step, every start, the trajectories that choose levels, and the check.
    seen = finals * len(sizes) * (sizes[-1] + 2 * held_out) + settings.scouts * few + 4 * held_out
    seen += last * (fitted + 2 * held_out)
    tried = (_MOST_STARTS * few * nfe + (FINE + 1) * TRAJECTORIES) if settings.scouts else few * nfe
    solved = (fitted + held_out + 8) * reference_steps
    return steps * _step_calls(nfe, settings) + 2 * seen * nfe + tried + solved + 12 * held_out * nfe
