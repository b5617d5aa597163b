r"""The robust loss of fits, and of the comparisons between fits.

For the squared error e of one sample,

.. math:: \rho(e) = 2 c^2 \big(\sqrt{1 + e / c^2} - 1\big) \approx
          \begin{cases} e & e \ll c^2 \\ 2 c \sqrt e & e \gg c^2 \end{cases}, \qquad
          \rho'(e) = 1 / \sqrt{1 + e / c^2}.

References:
    Charbonnier, Blanc-Féraud, Aubert & Barlaud, Two deterministic half-quadratic regularization algorithms for computed
    imaging, ICIP 1994.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longstride.arrays import Array, weighted_quantile

__all__ = ["Loss", "relative_scales"]

#: Largest scale of :func:`relative_scales`.
_HIGHEST = 25.0


def _median(values: Array, weights: Array | None) -> float:
    return float(np.median(values)) if weights is None else weighted_quantile(values, 0.5, weights)


@dataclass(frozen=True)
class Loss:
    """Charbonnier's loss of squared errors.

    Attributes:
        c2: c², a squared error; infinite for plain squares.
    """

    c2: float = float("inf")

    @staticmethod
    def of(squared: Array, factor: float = 1.0, weights: Array | None = None) -> Loss:
        """The loss whose c² is ``factor`` times the median of squared errors ``(B,)``; plain squares if c² is 0."""
        median = _median(squared, weights)
        return Loss(factor * median if factor > 0 and median > 0 else float("inf"))

    @staticmethod
    def common(several: Iterable[Array], factor: float = 1.0) -> Loss:
        """The loss that compares several sets of squared errors ``(B,)``: its c² is the least c² of the sets."""
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
        """Square root of :meth:`weight`, the factor of residuals; on the device of ``squared``."""
        return (1 + squared / self.c2).pow(-0.25)

    def mean(self, squared: Array, weights: Array | None = None) -> float:
        """Mean loss over squared errors ``(B,)``, with weights ``(B,)`` if any are passed."""
        return float(np.average(self.value(squared), weights=weights))


def relative_scales(base: Array, floor: float, weights: Array | None = None) -> Array:
    r"""Scales of squared errors, by which e / s compares a table with its base.

    .. math:: s = \mathrm{clip}(e' / m,\; \phi,\; 25), \qquad m = \mathrm{median}\, e'.

    A sample that the base does well then counts as much as a sample that it does badly. The floor keeps single samples
    that the base hits by chance from ruling a fit. The few samples that the base loses altogether rule its
    root-mean-square error. Above five times the base's typical error the scale rises no more, so that a fit minds them.

    Args:
        base: Squared errors e' of the base, ``(B,)``.
        floor: Phi, between 0 and 1.
        weights: Weights of the samples in the median, ``(B,)``; default: all are equal.

    Returns:
        Shape ``(B,)``; all are 1 if most errors are 0 or not finite.
    """
    level = _median(base, weights)
    if not 0 < level < np.inf:
        return np.ones(len(base))
    return np.clip(np.nan_to_num(base / level, nan=np.inf), floor, _HIGHEST)
