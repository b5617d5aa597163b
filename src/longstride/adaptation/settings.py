"""Settings of an adaptation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longstride.errors import InputError

__all__ = ["AdaptationSettings"]


@dataclass(frozen=True)
class AdaptationSettings:
    """Settings of an adaptation.

    Attributes:
        step: Farthest that one proposal moves any free number from the card in use. Weights of outputs count as they
            are; levels, and weights of the first state, by the logarithm (:mod:`longstride.parameters`).
        bound: Farthest that any free number ever is from the card that the calibration made.
        forgetting: Factor of all earlier samples at every new sample; 0.97 counts 33 samples, and 1 counts all.
        fewest: Fewest samples, by their weights, that a candidate is fitted to.
        every: Fewest new samples between a candidate and the next one.
        gain: Least part of the mean loss that a candidate must promise to save; else it is not tried.
        level: Largest probability that a candidate that is not better than the card, or not better than the base, is
            proposed, over all candidates since the card was last changed.
        patience: Most samples that a candidate is tried on.
        samples: Most samples of one request that are used.
        ridge: Pull towards the card in use, relative to the energy of each free number.
        robust: c² of the robust loss as a multiple of the median error; 0: plain squares.
        cap: Most energy of one sample, as a multiple of the mean.
        margin: Margin of the gate on the root-mean-square error.
        stability: Largest gain that the gate accepts, as a multiple of the base's gain.
        reference_steps: Steps of a converged solution, where it is solved here; for cards, where it is given.
        batch_size: Most samples per network call of several runs.
    """

    step: float = 0.2
    bound: float = 0.6
    forgetting: float = 0.97
    fewest: float = 16.0
    every: int = 8
    gain: float = 0.1
    level: float = 0.05
    patience: int = 64
    samples: int = 1
    ridge: float = 0.03
    robust: float = 1.0
    cap: float = 4.0
    margin: float = 0.0
    stability: float = 4.0
    reference_steps: int = 64
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.step <= self.bound:
            raise InputError(f"expected 0 < step <= bound, got step {self.step} and bound {self.bound}")
        if not 0 < self.forgetting <= 1 or not 0 < self.level < 1 or not 0 <= self.gain < 1:
            raise InputError(
                "expected forgetting in (0, 1], level in (0, 1) and gain in [0, 1), got "
                f"{self.forgetting}, {self.level} and {self.gain}"
            )
        if self.forgetting < 1 and not self.fewest < 1 / (1 - self.forgetting):
            raise InputError(
                f"a forgetting of {self.forgetting} never counts {self.fewest:g} samples: it counts at most "
                f"{1 / (1 - self.forgetting):.3g}"
            )
        if min(self.every, self.patience, self.samples, self.reference_steps, self.batch_size) < 1:
            raise InputError(f"expected every, patience, samples, steps and batch size of at least 1, got {self}")
        if not all(0 <= x < math.inf for x in (self.ridge, self.robust, self.margin)):
            raise InputError(f"expected finite ridge, robust and margin of at least 0, got {self}")
        if not min(self.fewest, self.cap, self.stability) > 0:
            raise InputError(f"expected positive fewest, cap and stability, got {self}")
