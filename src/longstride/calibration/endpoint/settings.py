"""Settings of the Gauss–Newton calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.calibration.endpoint.residuals import Features, pixels
from longstride.errors import InputError

__all__ = ["FITTED", "HELD_OUT", "GaussNewtonSettings", "fitted_samples"]

#: Samples that are fitted and held out by default; see :func:`fitted_samples`.
FITTED, HELD_OUT = 96, 48
#: Up to so many network calls more samples are fitted, and how many.
_FEW_CALLS, _MORE = 6, 128


@dataclass(frozen=True)
class GaussNewtonSettings:
    """Settings of the Gauss–Newton calibration.

    Attributes:
        iterations: Most steps after the short fits. The first of them are steps of whole fits
            (:func:`~longstride.calibration.endpoint.cost.whole_fit_samples`). The whole fit that is used takes the
            others on all samples, each with a Jacobian of its own.
        scouts: How many classical solvers short fits start from; 0: the table that was passed is the only start.
        scout_iterations: Steps of a short fit.
        scout_samples: Samples that classical solvers are compared on, and that short fits see.
        final_calls: Network calls in samples that whole fits after the first may take in all; 0: none is made.
        final_samples: Samples that whole fits see at most. But they see no fewer than short fits do, and all where
            there is a single step.
        levels: Whether inner levels are free.
        column: Whether the weight of the first state in every row is.
        window: Rows weigh so many of the latest outputs, and the recurrence of the base stays; None: all outputs.
        residual: Features that are compared beside the samples, a function from samples ``(B, *)`` to ``(B, F)``;
            default: none.
        robust: c² of the robust loss as a multiple of the median error; 0: plain squares.
        ridge: Pull towards where the steps on as many samples start, relative to the energy of each unknown.
        margin: The root-mean-square error on held-out noise may be above the base's by this part at most, or the base
            is kept. That most samples gain must be sure besides, see ``longstride.calibration.acceptance.gate.judge``.
        stability: The gain may be this many times the base's at most, or the base is kept; see
            :mod:`longstride.calibration.acceptance.stability`.
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
    residual: Features = pixels
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
        if not callable(self.residual):
            raise InputError(
                f"expected residual to be a function from samples (B, *) to features (B, F), got {self.residual!r}"
            )


def fitted_samples(nfe: int) -> int:
    """Samples that are fitted where nothing else is said: more up to 6 network calls, where they are cheap and help.

    There errors have the heaviest tails, and fewer samples do not show them.
    """
    return _MORE if nfe <= _FEW_CALLS else FITTED
