"""The levels that a solver builder works on, with the derived quantities of the papers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import Family, alpha_of_ratio
from longstride.grid import check_levels
from longstride.schedule import Schedule

__all__ = ["Nodes"]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Grid levels ``(alpha_i, sigma_i)``, ``i = 0 … N``, from noisy to clean; the last sigma may be 0.

    Attributes:
        alphas: Shape ``(N + 1,)``.
        sigmas: Shape ``(N + 1,)``, strictly decreasing.
        schedule: Tells network times to the solvers whose formulas use them (DEIS, PNDM's start). Without a schedule
            the time is ``sigma / alpha``, as in EDM.
    """

    alphas: Array
    sigmas: Array
    schedule: Schedule | None = None

    @staticmethod
    def of(sigmas: ArrayLike, alphas: ArrayLike | None = None, schedule: Schedule | None = None) -> Nodes:
        """Validated nodes; default alphas: the schedule's in its frame, or 1 without a schedule.

        Raises:
            InputError: levels that do not fall strictly, or alphas of another length or outside [0, 1].
        """
        levels = check_levels(np.asarray(sigmas, np.float64))
        if alphas is not None:
            scales = np.asarray(alphas, np.float64)
        else:
            scales = np.ones_like(levels) if schedule is None else schedule.frame_alpha(levels)
        if scales.shape != levels.shape:
            raise InputError(f"expected one alpha per sigma, got {scales.shape} alphas for {levels.shape} sigmas")
        if not np.all((scales >= 0) & (scales <= 1)) or np.any(scales[1:] == 0):
            raise InputError("alphas must lie in [0, 1], and only the first may be 0")
        return Nodes(scales, levels, schedule)

    @property
    def steps(self) -> int:
        """Number of steps ``N``."""
        return len(self.sigmas) - 1

    @cached_property
    def ratios(self) -> Array:
        """``rho = sigma / alpha``, shape ``(N + 1,)``; infinite at alpha 0."""
        with np.errstate(divide="ignore"):
            return self.sigmas / self.alphas

    @cached_property
    def lambdas(self) -> Array:
        """Half log-SNR ``lambda = log(alpha / sigma)``, shape ``(N + 1,)``; infinite at sigma 0 and at alpha 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.alphas) - np.log(self.sigmas)

    @cached_property
    def family(self) -> Family:
        """The constraint that ties alpha to sigma in this frame.

        Raises:
            InputError: the alphas follow none of the three families.
        """
        families: tuple[Family, ...] = ("ve", "vp", "flow")
        for family in families:
            if np.allclose(alpha_of_ratio(family, self.ratios), self.alphas, rtol=1e-9, atol=1e-12):
                return family
        raise InputError(
            "this solver needs levels between the given ones, so the alphas must follow alpha = 1, "
            "alpha² + sigma² = 1 or alpha + sigma = 1"
        )

    def inner(self, ratio: float) -> tuple[float, float]:
        """``(alpha, sigma)`` of a level between grid levels, from ``rho = sigma / alpha``."""
        alpha = float(alpha_of_ratio(self.family, ratio))
        return alpha, alpha * ratio

    def time(self, ratio: ArrayLike) -> Array:
        """Network time at ``rho``; rho itself without a schedule."""
        return np.asarray(ratio, np.float64) if self.schedule is None else self.schedule.time_of_ratio(ratio)

    def ratio_halfway(self, i: int) -> float:
        """``rho`` halfway in network time between levels ``i`` and ``i + 1``."""
        middle = float(np.mean(self.time(self.ratios[[i, i + 1]])))
        return middle if self.schedule is None else float(self.schedule.ratio(middle))
