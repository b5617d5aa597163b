r"""The exponential step of the DPM-Solver family and of UniPC, with its phi functions.

With :math:`h = \lambda_t - \lambda_s` the exact solution from ``s`` to ``t`` is a multiple of :math:`x_s` plus an
integral over the network's prediction. A Taylor expansion of the prediction in lambda leaves one weight per
derivative :math:`m^{(n)}`; both parametrisations give

.. math:: x_t = c\, x_s + w_0 m + w_1 h m' + w_2 h^2 m''

=====  ======================================  ============================================
..     data prediction (``m = D``)             noise prediction (``m = eps``)
=====  ======================================  ============================================
c      sigma_t / sigma_s                       alpha_t / alpha_s
w_0    -alpha_t (e^{-h} - 1)                   -sigma_t (e^h - 1)
w_1    alpha_t ((e^{-h} - 1)/h + 1)            -sigma_t ((e^h - 1)/h - 1)
w_2    -alpha_t ((e^{-h} - 1 + h)/h² - 1/2)    -sigma_t ((e^h - 1 - h)/h² - 1/2)
=====  ======================================  ============================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from longstride.errors import unknown
from longstride.table import Row
from longstride.table_builder import TableBuilder

__all__ = ["ExponentialStep", "Form"]

#: The prediction that a step integrates.
Form = Literal["data", "noise"]


@dataclass(frozen=True)
class ExponentialStep:
    """One step from ``(alpha_s, sigma_s)`` to ``(alpha_t, sigma_t)`` in either parametrisation.

    Attributes:
        start: Row of the state at the start.
        source: Level of the start.
        target: Level of the end.
        prediction: ``"data"`` or ``"noise"``.
    """

    start: Row
    source: tuple[float, float]
    target: tuple[float, float]
    prediction: Form

    @property
    def h(self) -> float:
        """Width in lambda; infinite for a target at sigma 0."""
        with np.errstate(divide="ignore"):
            (alpha_s, sigma_s), (alpha_t, sigma_t) = self.source, self.target
            return float(np.log(alpha_t) - np.log(sigma_t) - (np.log(alpha_s) - np.log(sigma_s)))

    @property
    def weight(self) -> float:
        """``w_0``; finite also for infinite ``h``."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.source, self.target
        if self.prediction == "data":
            return alpha_t - alpha_s * sigma_t / sigma_s
        return sigma_t - alpha_t * sigma_s / alpha_s

    @property
    def slope_weight(self) -> float:
        """``w_1``; needs finite ``h``."""
        h, (alpha_t, sigma_t) = self.h, self.target
        if self.prediction == "data":
            return float(alpha_t * (np.expm1(-h) / h + 1))
        return float(-sigma_t * (np.expm1(h) / h - 1))

    @property
    def curvature_weight(self) -> float:
        """``w_2``; needs finite ``h``."""
        h, (alpha_t, sigma_t) = self.h, self.target
        if self.prediction == "data":
            return float(-alpha_t * ((np.expm1(-h) + h) / h**2 - 0.5))
        return float(-sigma_t * ((np.expm1(h) - h) / h**2 - 0.5))

    def first(self, m: Row) -> Row:
        """First order, the same as DDIM: ``c x_s + w_0 m`` with the output ``m`` at the start."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.source, self.target
        if self.prediction == "data":
            return sigma_t / sigma_s * self.start + self.weight * m
        return alpha_t / alpha_s * self.start + self.weight * m


def model(table: TableBuilder, j: int, prediction: Form) -> Row:
    """The output at state ``j`` in the wanted parametrisation."""
    if prediction not in ("data", "noise"):
        raise unknown("prediction", prediction, ("data", "noise"))
    return table.data(j) if prediction == "data" else table.noise(j)
