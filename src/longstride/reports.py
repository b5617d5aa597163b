"""Reports of calibrations, of their steps and of their end. Cards hold these reports as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from longstride.arrays import Array

__all__ = [
    "EndReport",
    "Errors",
    "Finite",
    "GuardReport",
    "Iteration",
    "Report",
    "RowReport",
    "Search",
    "Stability",
    "WholeFit",
]

#: A number that a card may hold; only a card checks it.
Finite = Annotated[float, Field(allow_inf_nan=False)]
_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Errors:
    """Distance of samples to the reference solution from the same noise, in pixels or latents.

    Attributes:
        rmse: Root of the mean squared error over samples and entries.
        median: Median over samples of the root-mean-square error of one sample; it ignores a few samples that
            switch modes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    rmse: Finite
    median: Finite

    @staticmethod
    def of(squared: Array) -> Errors:
        """Both errors, from the mean squared error of every sample, shape ``(B,)``."""
        return Errors(float(np.sqrt(squared.mean())), float(np.median(np.sqrt(squared))))


@dataclass(frozen=True)
class RowReport:
    """The fit of one row.

    Attributes:
        row: Index of the state that the row gives.
        sigma_from: Level where its step starts.
        sigma_to: Level of the state.
        labels: Names of the directions.
        coefficients: Their fitted coefficients.
        base_error: Root-mean-square distance of the base row to the target, on the fitted samples.
        error: Root-mean-square distance of the fitted row to the target, likewise.
        held_out_base_error: As ``base_error``, on the held-out samples.
        held_out_error: As ``error``, on the held-out samples.
        accepted: Whether the coefficients are in use. They must not raise the held-out error of this step, and the
            gate must not have given the row back to the base.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    row: int
    sigma_from: Finite
    sigma_to: Finite
    labels: tuple[str, ...]
    coefficients: tuple[Finite, ...]
    base_error: Finite
    error: Finite
    held_out_base_error: Finite
    held_out_error: Finite
    accepted: bool


@dataclass(frozen=True)
class Iteration:
    """One accepted step of a fit.

    Attributes:
        objective: Mean loss over the fitted samples.
        held_out: Mean loss over the held-out samples, with the same c².
        rmse: Root-mean-square error of the fitted samples, in pixels or latents.
        held_out_rmse: Root-mean-square error of the held-out samples.
        damping: Lambda of the step.
        samples: Number of fitted samples; None on cards of older versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    objective: Finite
    held_out: Finite
    rmse: Finite
    held_out_rmse: Finite
    damping: Finite
    samples: int | None = None


@dataclass(frozen=True)
class WholeFit:
    """Errors of a whole fit on held-out samples, before the last steps.

    Attributes:
        rmse: Root-mean-square error.
        detail: Root-mean-square error of the detail; see ``longstride.calibration.endpoint.select``.
        score: Product of the mean losses of both squared errors, over the least such product of all fits.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    rmse: Finite
    detail: Finite
    score: Finite


@dataclass(frozen=True)
class Search:
    """Course of a Gauss–Newton calibration.

    Attributes:
        base: Name of the best classical start, ``solver@grid``, or ``"given"``.
        classical: Root-mean-square error of every start on the samples of short fits, best first by the mean loss.
        scouts: Mean loss on held-out samples after each short fit, by its start.
        start: Name of the start of the fit that is used.
        iterations: The start, and the steps of the fit.
        stopped: Why the fit ended, in words.
        finals: Errors of whole fits before the last steps, by their start; empty if there is only one whole fit.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    base: str
    classical: Mapping[str, Finite]
    scouts: Mapping[str, Finite]
    start: str
    iterations: tuple[Iteration, ...]
    stopped: str
    finals: Mapping[str, WholeFit] = field(default_factory=dict)


@dataclass(frozen=True)
class Stability:
    """How much a table and its base amplify errors of the network; see ``longstride.calibration.acceptance.stability``.

    Attributes:
        gain: Root-mean-square change of the last state per size of independent errors on all outputs.
        base_gain: Gain of the base.
        weights: Largest sum of absolute weights of outputs in a row of the normal form.
        base_weights: Largest sum of the base.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    gain: Finite
    base_gain: Finite
    weights: Finite
    base_weights: Finite


@dataclass(frozen=True)
class GuardReport:
    """The guarded sampler on fresh samples, which neither the fit nor the guard has seen.

    Attributes:
        samples: Number of fresh samples.
        flagged: Number of these that the base made again.
        base: Errors of the base.
        unguarded: Errors of the calibrated table alone; None if they are not finite.
        guarded: Errors of the guarded sampler.
        factor: How much farther off than with the base a sample is that counts as bad.
        bad: Number of bad samples of the guarded sampler.
        share: Largest share of bad samples that the fresh samples leave possible (Clopper and Pearson).
        confidence: Confidence of ``share``, for all looks at growing numbers of samples together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    samples: int
    flagged: int
    base: Errors
    unguarded: Errors | None
    guarded: Errors
    factor: Finite
    bad: int
    share: Finite
    confidence: Finite

    @property
    def claim(self) -> str:
        """What is claimed of the guarded sampler, in words."""
        return (
            f"at most {100 * self.share:.2g} % of samples are more than {self.factor:g} times as far off as with the "
            f"base, with {100 * self.confidence:g} % confidence ({self.bad} of {self.samples} fresh samples were)"
        )


@dataclass(frozen=True)
class EndReport:
    """Errors of whole trajectories on held-out noise, and the verdict of the gate.

    Attributes:
        base: Errors of the base table.
        calibrated: Errors of the calibrated table, after rows were given back and before the comparison with the base.
        samples: Number of held-out samples.
        reference_error: Estimated error of the reference solution; smaller differences mean nothing. None if unknown.
        reference_nfe: Network calls per sample of the reference solution.
        given_back: Rows whose coefficients the gate dropped, since whole trajectories are better without them.
        accepted: Whether the calibrated table is used, and not the base.
        reason: Why the base is kept, in words; empty if accepted.
        stability: Gains of the calibrated table and its base, if measured and finite.
        guard: The guarded sampler on fresh samples; None if there is no guard, or no fresh sample.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    base: Errors
    calibrated: Errors
    samples: int
    reference_error: Finite | None
    reference_nfe: int
    given_back: tuple[int, ...]
    accepted: bool
    reason: str = ""
    stability: Stability | None = None
    guard: GuardReport | None = None

    def __post_init__(self) -> None:
        measured = self.stability
        if measured is not None and not math.isfinite(measured.gain + measured.base_gain):
            object.__setattr__(self, "stability", None)
        if self.reference_error is not None and not math.isfinite(self.reference_error):
            object.__setattr__(self, "reference_error", None)


@dataclass(frozen=True)
class Report:
    """All reports of one calibration.

    Attributes:
        rows: One per row that was fitted by itself.
        end: Whole trajectories on held-out noise.
        calls: All network calls, in samples.
        search: How a fit of all rows together went, or None.
    """

    rows: tuple[RowReport, ...]
    end: EndReport
    calls: int
    search: Search | None = None
