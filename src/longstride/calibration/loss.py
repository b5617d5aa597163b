r"""The robust loss that fits are made and compared by.

.. math:: \rho(e) = 2 c^2 \big(\sqrt{1 + e / c^2} - 1\big), \qquad \rho'(e) = 1 / \sqrt{1 + e / c^2},

with e the squared error of one sample. A sample far beyond c counts by its distance, and no more by its square.

References:
    Charbonnier, Blanc-Féraud, Aubert & Barlaud, Two deterministic half-quadratic regularization algorithms for computed
    imaging, ICIP 1994.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longstride.arrays import Array

__all__ = ["Loss"]


@dataclass(frozen=True)
class Loss:
    """Charbonnier's loss of squared errors.

    Attributes:
        c2: c², a squared error; infinite for plain squares.
    """

    c2: float = float("inf")

    @staticmethod
    def of(squared: Array, factor: float = 1.0) -> Loss:
        """The loss whose c² is ``factor`` times the median of squared errors ``(B,)``; plain squares if that is 0."""
        median = float(np.median(squared))
        return Loss(factor * median if factor > 0 and median > 0 else float("inf"))

    @staticmethod
    def common(several: Iterable[Array], factor: float = 1.0) -> Loss:
        """The loss that compares several sets of squared errors ``(B,)``: its c² is the least of their own."""
        return Loss(min((Loss.of(squared, factor).c2 for squared in several), default=float("inf")))

    def value(self, squared: Array) -> Array:
        """Loss of squared errors of any shape, in that shape; infinite for infinite errors."""
        with np.errstate(invalid="ignore"):
            loss = 2 * squared / (1 + np.sqrt(1 + squared / self.c2))
        return np.where(np.isinf(squared), np.inf, loss)

    def weight(self, squared: Array) -> Array:
        """Weight of samples with squared errors of any shape in a least-squares step: the derivative of the loss."""
        return np.asarray(1 / np.sqrt(1 + squared / self.c2))

    def root_weight(self, squared: Tensor) -> Tensor:
        """Square root of :meth:`weight`, which residuals are multiplied by; on the device of ``squared``."""
        return (1 + squared / self.c2).pow(-0.25)

    def mean(self, squared: Array) -> float:
        """Mean loss over squared errors ``(B,)``."""
        return float(self.value(squared).mean())
