r"""Normal equations with forgetting: what all samples so far tell, the latest most.

With the equations :math:`S_n` of sample n and a factor gamma,

.. math:: G_n = \gamma\, G_{n-1} + f_n S_n, \qquad N_n = \gamma\, N_{n-1} + 1,

where N is the number of samples that count. With gamma = 1 nothing is forgotten, and these are the equations of a
calibration. No sample may rule them: under the robust loss the weighted residual of a sample is at most c, and the
factor :math:`f_n \le 1` keeps its energy, :math:`\mathrm{mean}_i\, S_{ii} / \bar G_{ii}` with the mean
:math:`\bar G = G / N`, at a cap.

References:
    Haykin, Adaptive Filter Theory, 2002, Ch. 9 (recursive least squares with a forgetting factor).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from longstride.arrays import Array
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations

__all__ = ["Sums"]

#: Samples that must count before a mean energy is known.
_KNOWN = 8.0
#: Latest squared errors that are kept, for their median.
_LATEST = 32


@dataclass(frozen=True)
class Sums:
    """Weighted sums over all samples.

    Attributes:
        equations: Normal equations at the card in use.
        effective: Number of samples by their weights.
        seen: Number of samples.
        latest: Squared errors of the card in use on the latest samples, the last one last.
    """

    equations: NormalEquations
    effective: float = 0.0
    seen: int = 0
    latest: tuple[float, ...] = ()

    @staticmethod
    def empty(unknowns: int) -> Sums:
        """Of no samples."""
        return Sums(NormalEquations(unknowns))

    def loss(self, robust: float, usual: float) -> Loss:
        """The robust loss of the next sample.

        Args:
            robust: c² as a multiple of the median of the latest squared errors; 0: plain squares.
            usual: Squared error to begin with.
        """
        return Loss.of(np.array(self.latest[-_LATEST:] or (usual,)), robust)

    def plus(self, sample: NormalEquations, squared: float, forgetting: float, cap: float) -> Sums:
        """The sums with one more sample.

        Args:
            sample: Its equations.
            squared: Its squared error.
            forgetting: Gamma.
            cap: Most energy of the sample, as a multiple of the mean.
        """
        factor, share = 1.0, self._share(sample)
        if share > cap:
            factor = cap / share
        packed = forgetting * self.equations.pack() + factor * sample.pack()
        return Sums(
            NormalEquations.unpack(packed, len(sample.moment)),
            forgetting * self.effective + 1,
            self.seen + 1,
            (*self.latest, squared)[-_LATEST:],
        )

    def _share(self, sample: NormalEquations) -> float:
        """Energy of a sample as a multiple of the mean; 0 while no mean is known."""
        mean = np.diag(self.equations.gram) / max(self.effective, 1.0)
        known = mean > 0
        if self.effective < _KNOWN or not known.any():
            return 0.0
        with np.errstate(over="ignore"):
            return float((np.diag(sample.gram)[known] / mean[known]).mean())

    def moved(self, change: Array, latest: tuple[float, ...]) -> Sums:
        """The sums at a card whose free numbers differ by ``change``, ``(p,)``, with the errors of that card."""
        return replace(self, equations=self.equations.moved(change), latest=latest[-_LATEST:])
