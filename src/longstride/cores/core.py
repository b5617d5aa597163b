r"""A table without a scale: levels and weights that fit every process and every standard deviation of the data.

In the ratio frame, where alpha is 1, with data of standard deviation 1/2, a core of K calls has levels
:math:`S = s_0 > s_1 > \dots > s_{K-1} > s_K = 0` and states

.. math:: x_k = \frac{s_k}{S} x_0 + \sum_{j<k} b_{kj} D_j, \qquad \sum_{j<k} b_{kj} = 1 - \frac{s_k}{S}.

The last weight of a row, :math:`b_{k,k-1}`, is what the second equation leaves. So a core is exact on data that are a
single point, and follows a shift of the data; nothing else of a mean is needed.

Data of standard deviation d turn :math:`s_k` into the level :math:`2 d\, s_k`; weights stay. A process with alpha below
1 multiplies row k by its :math:`\alpha_k`. A start S' other than S, infinite for a flow, turns the weight of
:math:`x_0` into :math:`s_k / S'`, and the first output, which hardly depends on the noise at large S, takes the rest.
An end at a level :math:`e > 0` in place of 0 is a point of the straight line to the end at 0, and the last call is made
at least at 1.3 e:

.. math:: x_K = \frac{e}{s_{K-1}} x_{K-1} + \Big(1 - \frac{e}{s_{K-1}}\Big) \sum_j b_{Kj} D_j.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import Family, alpha_of_ratio
from longstride.table import Row, SolverTable

__all__ = ["UNIT", "Core"]

#: Standard deviation of the data of a core.
UNIT = 0.5
#: The last call is at least this far above the end, as a ratio of levels.
_LAST_STEP = 1.3


@dataclass(frozen=True, eq=False)
class Core:
    """Levels and weights of a universal table.

    Attributes:
        start: First level S.
        levels: ``s_1 … s_{K-1}``, shape ``(K - 1,)``, falling.
        weights: Free weights, shape ``(K, K)``: entry ``[k - 1, j]`` is ``b_kj`` for ``j < k - 1``, others are 0.
    """

    start: float
    levels: Array
    weights: Array

    def __post_init__(self) -> None:
        nfe = len(self.weights)
        if nfe < 2:
            raise InputError(f"a core has at least 2 calls, got {nfe}")
        fall = np.diff(np.concatenate([[self.start], self.levels, [0.0]]))
        if self.weights.shape != (nfe, nfe) or self.levels.shape != (nfe - 1,) or not (fall < 0).all():
            raise InputError(f"a core of {nfe} calls needs {nfe - 1} falling levels and weights ({nfe}, {nfe})")
        if not (np.isfinite(self.weights).all() and (np.triu(self.weights) == 0).all()):
            raise InputError("a core's weights must be finite, and 0 from the last output on")

    @staticmethod
    def of(numbers: Array, nfe: int, start: float) -> Core:
        """The core with these free numbers; the inverse of :attr:`numbers`."""
        weights, count = np.zeros((nfe, nfe)), nfe * (nfe - 1) // 2
        weights[np.tril_indices(nfe, -1)] = numbers[:count]
        return Core(start, np.exp(numbers[count:]), weights)

    @property
    def nfe(self) -> int:
        """Network calls K."""
        return len(self.weights)

    @property
    def numbers(self) -> Array:
        """Free numbers: weights ``b_kj`` with ``j < k - 1`` row by row, then the logarithms of the levels."""
        return np.concatenate([self.weights[np.tril_indices(self.nfe, -1)], np.log(self.levels)])

    def table(
        self,
        *,
        data_std: float,
        start: float,
        end: float = 0.0,
        family: Family = "ve",
        options: Mapping[str, Any] | None = None,
    ) -> SolverTable:
        """The core as a sampler of one process.

        Args:
            data_std: Standard deviation of the data.
            start: ``sigma / alpha`` of the first state; may be infinite for a process with alpha below 1.
            end: ``sigma / alpha`` of the last state.
            family: Frame of the table's states: ``"ve"`` has alpha = 1.
            options: Options of the table, which say how it was made.

        Raises:
            InputError: a standard deviation that is not positive, a start below the first inner level, or an end above
                the last inner level.
        """
        if not 0 < data_std < math.inf:
            raise InputError(f"data_std must be a positive number, got {data_std}")
        unit = UNIT / data_std
        first, last = start * unit, end * unit
        inner = self.levels.copy()
        inner[-1] = max(inner[-1], _LAST_STEP * last)
        if not (np.diff(np.concatenate([[first], inner])) < 0).all():
            shown = ", ".join(f"{level / unit:.3g}" for level in self.levels)
            raise InputError(
                f"a start at sigma / alpha = {start:g} and an end at {end:g} do not enclose the levels {shown} of the "
                f"universal table of {self.nfe} calls for data of standard deviation {data_std:g}"
            )
        levels = np.concatenate([[first], inner, [last]])
        ratios = np.concatenate([[start], inner / unit, [end]])  # both ends to the bit
        alphas = alpha_of_ratio(family, ratios)
        sigmas = np.where(np.isinf(ratios), 1.0, alphas * np.where(np.isinf(ratios), 1.0, ratios))
        rows = []
        for k in range(1, self.nfe + 1):
            target = float(inner[k - 1]) if k < self.nfe else 0.0
            weights = self.weights[k - 1, :k].copy()
            if k > 1:
                weights[0] += target / self.start - target / first
            weights[k - 1] = 1 - target / first - weights[: k - 1].sum()
            alpha, states = float(alphas[k]), {0: float(alphas[k] * target / unit / sigmas[0])}
            if k == self.nfe and last > 0:
                part = last / float(levels[k - 1])
                before = float(alphas[k - 1])
                states, weights = {k - 1: alpha * part / before}, (1 - part) * weights
            rows.append(Row(states, dict(enumerate((alpha * weights).tolist()))).pruned())
        return SolverTable("longstride", alphas, sigmas, tuple(rows), tuple(range(self.nfe + 1)), dict(options or {}))
