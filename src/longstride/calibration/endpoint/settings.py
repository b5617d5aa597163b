"""Settings of the Gauss–Newton calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.calibration.acceptance.gate import judge
from longstride.calibration.acceptance.guarding import Guarding
from longstride.calibration.endpoint.residuals import Features, pixels
from longstride.calibration.samples import Samples
from longstride.errors import InputError
from longstride.parameters import Parameters
from longstride.reports import EndReport
from longstride.table import SolverTable

__all__ = ["FITTED", "HELD_OUT", "GaussNewtonSettings", "fitted_samples"]

#: Default numbers of fitted and held-out samples; see :func:`fitted_samples`.
FITTED, HELD_OUT = 96, 48
#: Up to ``_FEW_CALLS`` network calls, ``_MORE`` samples are fitted.
_FEW_CALLS, _MORE = 6, 128


@dataclass(frozen=True)
class GaussNewtonSettings:
    """Settings of the Gauss–Newton calibration.

    Attributes:
        iterations: Most steps after the short fits. Whole fits take the first of these steps
            (:func:`~longstride.calibration.endpoint.cost.whole_fit_samples`). The chosen whole fit takes the others on
            all samples, each with a Jacobian of its own.
        scouts: Number of starts that short fits go on from; 1: there is no short fit. 0: no classical solver is tried,
            and the passed tables are the only starts.
        universal: Whether universal tables are starts, too, at scales around the standard deviation of the samples
            (:mod:`longstride.calibration.starts.universal`). The base is then the best of both kinds, and at least two
            whole fits go on. None: if classical solvers are tried.
        scout_iterations: Steps of a short fit.
        scout_samples: Number of samples that rank the starts, and that short fits see.
        final_calls: Most network calls, in samples, of whole fits after the first; 0: there is one whole fit.
        final_samples: Most samples that whole fits see. They see at least ``scout_samples``, and all samples if
            ``iterations`` is 1.
        trials: Most trials of a step, each more damped than the one before, until the objective falls.
        rank: Directions per level in which the network is differentiated
            (:mod:`longstride.calibration.endpoint.low_rank`): a step costs about ``(rank + 2) K`` network calls per
            sample. None: exact derivatives, for about ``K³ / 6``.
        levels: Whether inner levels are free.
        column: Whether the weights of the first state are free.
        window: Number of latest outputs whose weights in a row are free, in the start's own recurrence; None: all
            outputs, in the normal form.
        residual: Features that are compared beside pixels, a function from samples ``(B, *)`` to ``(B, F)``; default:
            no features.
        robust: c² of the robust loss as a multiple of the median error; 0: plain squares.
        ridge: Pull towards the first table of each run of steps, relative to the energy of each free number.
        prior: Kappa of the prior (:mod:`longstride.calibration.endpoint.prior`), which takes the place of the ridge in
            fits from universal tables; 0: there is none.
        margin: Margin of the gate on the root-mean-square error; see
            :func:`longstride.calibration.acceptance.gate.judge`.
        confidence: Confidence with which the gate must know that most errors are smaller than the base's.
        stability: Largest gain that the gate accepts, as a multiple of the base's gain; see
            :mod:`longstride.calibration.acceptance.stability`.
        guard_share: Network calls that the guard may add, where the base makes samples again, over those of the table;
            0: no guard. See :mod:`longstride.calibration.acceptance.guarding`.
        guard_tail: Share of samples of which it is to be claimed that no more are more than twice as far off as with
            the base; fresh samples are added for this claim.
        guard_added: Most fresh samples, per sample of the calibration; 0: none, and nothing is claimed.
        guard_mined: With a guard, fresh samples of a pool, per sample of the calibration; 0: no pool. One pool teaches
            the fit, and another the guard: the reference is solved for hard samples alone
            (:mod:`longstride.calibration.mining`).
        guard_hard: Share of hard samples in a pool.
        guard_floor: With a guard, fits take the squared error of a sample in units of the base's, at least this part of
            the base's median squared error (:func:`~longstride.calibration.loss.relative_scales`). So they avoid being
            much worse than the base anywhere. None: plain errors.
        guard_robust: ``robust`` of these fits. Samples that are much worse than with the base count more by it.
    """

    iterations: int = 4
    scouts: int = 3
    universal: bool | None = None
    scout_iterations: int = 1
    scout_samples: int = 16
    final_calls: int = 6_000
    final_samples: int = 48
    trials: int = 6
    rank: int | None = None
    levels: bool = True
    column: bool = True
    window: int | None = None
    residual: Features = pixels
    robust: float = 1.0
    ridge: float = 1e-6
    prior: float = 0.1
    margin: float = 0.0
    confidence: float = 0.95
    stability: float = 4.0
    guard_share: float = 0.0
    guard_tail: float = 0.02
    guard_added: float = 3.0
    guard_mined: float = 8.0
    guard_hard: float = 0.0625
    guard_floor: float | None = 0.1
    guard_robust: float = 8.0

    def __post_init__(self) -> None:
        counts = (self.iterations, self.scout_iterations, self.scout_samples, self.final_samples, self.trials)
        if min(counts) < 1 or min(self.scouts, self.final_calls) < 0:
            raise InputError(
                f"expected at least one iteration, sample and trial, and scouts and final_calls >= 0, got {self}"
            )
        if not all(0 <= x < np.inf for x in (self.robust, self.guard_robust, self.ridge, self.prior, self.margin)):
            raise InputError(f"expected finite robust, guard_robust, ridge, prior and margin >= 0, got {self}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"expected a confidence of at least 0.5 and below 1, got {self.confidence}")
        if not self.stability > 0:
            raise InputError(f"expected stability > 0, got {self}")
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise InputError(f"expected a whole rank of at least 1, or None for exact derivatives, got {self.rank!r}")
        if self.window is not None and self.window < 1:
            raise InputError(f"expected a window of at least 1 output, or None for all, got {self.window}")
        if not callable(self.residual):
            raise InputError(
                f"expected residual to be a function from samples (B, *) to features (B, F), got {self.residual!r}"
            )
        if self.guard_floor is not None and not 0 < self.guard_floor <= 1:
            raise InputError(f"expected guard_floor in (0, 1], or None, got {self.guard_floor}")
        self.guarding()

    def parameters(self, nfe: int) -> Parameters:
        """The free numbers of tables with ``nfe`` network calls."""
        return Parameters(nfe, levels=self.levels, column=self.column, window=self.window)

    def judge(
        self, samples: Samples, base: SolverTable, calibrated: SolverTable, rival: str = "the base"
    ) -> tuple[SolverTable, EndReport]:
        """What the gate says (:func:`~longstride.calibration.acceptance.gate.judge`)."""
        return judge(
            samples,
            base,
            calibrated,
            margin=self.margin,
            stability=self.stability,
            confidence=self.confidence,
            rival=rival,
        )

    @property
    def tries_universal(self) -> bool:
        """Whether universal tables are starts."""
        return self.scouts > 0 if self.universal is None else self.universal

    def guarding(self) -> Guarding:
        """What is asked of the guard.

        Raises:
            InputError: impossible shares.
        """
        return Guarding(
            self.guard_share,
            self.guard_tail,
            self.guard_added,
            self.guard_mined,
            self.guard_hard,
            self.margin,
            self.stability,
        )


def fitted_samples(nfe: int) -> int:
    """Default number of fitted samples: 128 up to 6 network calls, else 96.

    At few calls samples are cheap, and errors have heavy tails, which fewer samples do not show.
    """
    return _MORE if nfe <= _FEW_CALLS else FITTED
