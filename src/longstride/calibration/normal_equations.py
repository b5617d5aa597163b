r"""Least squares over network outputs, streamed: only inner products are kept.

A residual e is fitted by a few directions, :math:`\min_\beta \| e - \sum_d \beta_d\, v_d \|^2`, over all samples and
entries. :math:`G = V^T V`, :math:`g = V^T e` and :math:`\|e\|^2` solve this problem, and evaluate any beta. So batches
are added one by one, and are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.arrays import Array, double

__all__ = ["NormalEquations", "Pull"]

#: Entries of every direction that are held in float64 at once.
_ENTRIES = 2**14


@dataclass(frozen=True)
class Pull:
    r"""A quadratic pull on unknowns beta, added to an objective with the normal matrix G.

    .. math:: \epsilon\, \|\mathrm{diag}(G)^{1/2} (a + \beta)\|^2 + \beta^T P \beta + 2 h^T \beta

    Attributes:
        ridge: Epsilon.
        away: a, the present numbers less those that the ridge pulls to, shape ``(p,)``.
        precision: P, shape ``(p, p)``.
        gradient: h, shape ``(p,)``.
    """

    ridge: float
    away: Array
    precision: Array
    gradient: Array

    @staticmethod
    def plain(ridge: float, away: Array) -> Pull:
        """The ridge alone."""
        return Pull(ridge, away, np.zeros((len(away), len(away))), np.zeros(len(away)))

    def after(self, change: Array) -> Pull:
        """The pull at numbers that were changed by ``change``."""
        return replace(self, away=self.away + change, gradient=self.gradient + self.precision @ change)

    def of(self, chosen: NDArray[np.bool_]) -> Pull:
        """The pull on some of the unknowns, while the others stay."""
        block = self.precision[np.ix_(chosen, chosen)]
        return Pull(self.ridge, self.away[chosen], block, self.gradient[chosen])


class NormalEquations:
    """Streaming normal equations in float64.

    Attributes:
        gram: ``G``, shape ``(p, p)``.
        moment: ``g``, shape ``(p,)``.
        energy: ``|e|²``.
        count: Number of entries summed over.
    """

    def __init__(self, unknowns: int) -> None:
        self.gram = np.zeros((unknowns, unknowns))
        self.moment = np.zeros(unknowns)
        self.energy = 0.0
        self.count = 0

    @staticmethod
    def of(directions: Sequence[Tensor], residual: Tensor) -> NormalEquations:
        """The equations of one batch; see :meth:`add`."""
        found = NormalEquations(len(directions))
        found.add(directions, residual)
        return found

    def add(self, directions: Sequence[Tensor], residual: Tensor) -> None:
        """Add a batch: ``p`` direction tensors and the residual, all of one shape."""
        flat = [tensor.flatten() for tensor in (*directions, residual)]
        total = double(residual.new_zeros(len(flat), len(flat)))
        for begin in range(0, residual.numel(), _ENTRIES):  # float64 copies of whole tensors would need the most memory
            stacked = double(torch.stack([tensor[begin : begin + _ENTRIES] for tensor in flat]))
            total += stacked @ stacked.T
        products = total.cpu().numpy()
        self.gram += products[:-1, :-1]
        self.moment += products[:-1, -1]
        self.energy += float(products[-1, -1])
        self.count += residual.numel()

    def pack(self) -> Array:
        """Everything as one vector, shape ``(p² + p + 2,)``; packed equations of several batches may be summed."""
        return np.concatenate([self.gram.ravel(), self.moment, [self.energy, float(self.count)]])

    @staticmethod
    def unpack(packed: Array, unknowns: int) -> NormalEquations:
        """The equations in a vector made by :meth:`pack`."""
        found, p = NormalEquations(unknowns), unknowns
        found.gram, found.moment = packed[: p * p].reshape(p, p), packed[p * p : p * p + p]
        found.energy, found.count = float(packed[-2]), int(packed[-1])
        return found

    def leading(self, unknowns: int) -> NormalEquations:
        """The equations of the first ``unknowns`` directions alone."""
        found = NormalEquations(unknowns)
        found.gram, found.moment = self.gram[:unknowns, :unknowns], self.moment[:unknowns]
        found.energy, found.count = self.energy, self.count
        return found

    def solve(self, ridge: float) -> Array:
        """Minimiser ``beta`` of shape ``(p,)`` of ``|e - V beta|² + ridge |diag(G)^{1/2} beta|²``.

        Directions without energy, and directions that repeat others, get the least-norm solution.
        """
        scale = np.sqrt(np.diag(self.gram))
        scale[scale == 0] = 1.0
        gram = self.gram / np.outer(scale, scale) + ridge * np.eye(len(scale))
        scaled, *_ = np.linalg.lstsq(gram, self.moment / scale, rcond=1e-13)
        return np.asarray(scaled / scale, np.float64)

    def moved(self, beta: Array) -> NormalEquations:
        """The equations of the residual ``e - V beta``: their moment is ``g - G beta``."""
        found = NormalEquations(len(beta))
        found.gram, found.moment, found.count = self.gram, self.moment - self.gram @ beta, self.count
        found.energy = self.energy - 2 * float(self.moment @ beta) + float(beta @ self.gram @ beta)
        return found

    def pulled(self, pull: Pull) -> NormalEquations:
        """The equations with a pull added to the objective."""
        ridge, found = pull.ridge * np.diag(self.gram), NormalEquations(len(pull.away))
        found.gram = self.gram + np.diag(ridge) + pull.precision
        found.moment = self.moment - ridge * pull.away - pull.gradient
        found.energy, found.count = self.energy, self.count
        return found

    def mse(self, beta: Array) -> float:
        """Mean squared residual at ``beta``, per entry; never below 0."""
        return max(self.moved(beta).energy, 0.0) / max(self.count, 1)
