r"""A sampler is one small triangular matrix.

A deterministic sampler of ``K`` network calls visits states :math:`x_0 \ldots x_K` at levels
:math:`(\alpha_k, \sigma_k)`. The network returns outputs :math:`D_j = D(x_j, \sigma_j)`. A sampler that is linear in
the outputs has the *normal form*

.. math:: x_k = a_k x_0 + \sum_{j<k} b_{kj} D_j, \qquad k = 1 \ldots K.

A table holds its *recurrence*, as its solver wrote it: each row reads a few recent states and outputs. The recurrence
runs, and bounds memory. The normal form is unique: tables are compared and checked in it.

On data that are a single point ``c`` every state of an exact solver is :math:`\alpha_k c + \sigma_k \epsilon`. Such a
solver meets two identities, which catch most typos. The constructor of a table checks them:

.. math:: a_k = \sigma_k / \sigma_0, \qquad \textstyle\sum_j b_{kj} = \alpha_k - \alpha_0 a_k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError

__all__ = ["Row", "SolverTable"]


#: Largest :attr:`SolverTable.defect` that rounding explains.
IDENTITY_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Row:
    """A linear combination of states ``x_i`` and outputs ``D_j``, with ``+``, ``-`` and scalar ``*`` and ``/``."""

    states: Mapping[int, float] = field(default_factory=dict)
    outputs: Mapping[int, float] = field(default_factory=dict)

    __array_ufunc__ = None  # a NumPy scalar times a row is a row

    def __add__(self, other: Row) -> Row:
        return Row(_merge(self.states, other.states), _merge(self.outputs, other.outputs))

    def __mul__(self, factor: float) -> Row:
        w = float(factor)
        return Row({i: w * v for i, v in self.states.items()}, {j: w * v for j, v in self.outputs.items()})

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Row:
        return self * (1.0 / float(factor))

    def __neg__(self) -> Row:
        return self * -1.0

    def __sub__(self, other: Row) -> Row:
        return self + other * -1.0

    def pruned(self) -> Row:
        """The same row without the terms whose weight is exactly zero; a row of zeros keeps its first state."""
        states, outputs = ({i: v for i, v in part.items() if v != 0.0} for part in (self.states, self.outputs))
        return Row(states, outputs) if states or outputs else Row({0: 0.0})


def _merge(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    total = dict(left)
    for index, weight in right.items():
        total[index] = total.get(index, 0.0) + weight
    return total


@dataclass(frozen=True, eq=False)
class SolverTable:
    """A sampler as numbers: levels and one row per state.

    Attributes:
        name: Name of the solver that built the table.
        alphas: Shape ``(K + 1,)``: alpha of every state, stages included.
        sigmas: Shape ``(K + 1,)``; the network is told ``sigmas[k]`` at call ``k < K``.
        rows: ``K`` rows; ``rows[k - 1]`` gives state ``k`` from earlier states and outputs.
        grid: Indices of the states that are grid levels, from 0 to ``K``; the others are stages within a step.
        options: The builder's options.
        exact: Whether the rows must meet the two identities. Classical solvers meet them, calibrated tables need not.

    Raises:
        InputError: numbers of rows, levels or indices that do not fit, a weight that is not finite, or an exact table
            that misses the identities.
    """

    name: str
    alphas: Array
    sigmas: Array
    rows: tuple[Row, ...]
    grid: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True

    def __post_init__(self) -> None:
        for name in ("alphas", "sigmas"):
            levels = np.array(getattr(self, name), np.float64)
            levels.setflags(write=False)
            object.__setattr__(self, name, levels)
        k = len(self.rows)
        if k < 1 or len(self.alphas) != k + 1 or len(self.sigmas) != k + 1:
            raise InputError(
                f"a table of {k} rows needs {k + 1} levels and at least one row, got {len(self.alphas)} alphas "
                f"and {len(self.sigmas)} sigmas"
            )
        for number, row in enumerate(self.rows, start=1):
            reach = [*row.states, *row.outputs]
            if not reach or min(reach) < 0 or max(reach) >= number:
                raise InputError(f"row {number} must read states and outputs 0 … {number - 1} only")
            if not all(map(np.isfinite, [*row.states.values(), *row.outputs.values()])):
                raise InputError(
                    f"{self.name}: a weight of row {number} is not finite (levels {self.sigmas[number - 1]:g} → "
                    f"{self.sigmas[number]:g})"
                )
        if not self.grid or self.grid[0] != 0 or self.grid[-1] != k or list(self.grid) != sorted(set(self.grid)):
            raise InputError(f"grid must be increasing state indices from 0 to {k}, got {self.grid}")
        if self.exact and not (worst := self.defect) <= IDENTITY_TOLERANCE:  # NaN, too
            raise InputError(f"{self.name}: the rows are not exact on a single data point (defect {worst:.1e})")

    @property
    def nfe(self) -> int:
        """Number of network calls ``K``."""
        return len(self.rows)

    @cached_property
    def _normal_form(self) -> Array:
        form = np.zeros((self.nfe + 1, self.nfe + 1))
        form[0, 0] = 1.0
        with np.errstate(over="ignore", invalid="ignore"):  # infinity or NaN says it
            for k, row in enumerate(self.rows, start=1):
                for i, weight in row.states.items():
                    form[k] += weight * form[i]
                for j, weight in row.outputs.items():
                    form[k, 1 + j] += weight
        form.setflags(write=False)
        return form

    @property
    def a(self) -> Array:
        """Column of the normal form: weight of ``x_0`` in every state, shape ``(K + 1,)``, ``a[0] = 1``."""
        return self._normal_form[:, 0]

    @property
    def b(self) -> Array:
        """Normal form: weight of output ``j`` in state ``k``, shape ``(K + 1, K)``, strictly lower triangular."""
        return self._normal_form[:, 1:]

    @property
    def defect(self) -> float:
        """Largest violation of the two identities, relative to ``max(1, sum_j |b_kj|)``; NaN if weights overflow."""
        with np.errstate(all="ignore"):
            a_defect = np.abs(self.a - self.sigmas / self.sigmas[0])
            b_defect = np.abs(self.b.sum(1) - (self.alphas - self.alphas[0] * self.sigmas / self.sigmas[0]))
            return float(np.max(np.maximum(a_defect, b_defect) / np.maximum(1.0, np.abs(self.b).sum(1))))

    def distance(self, other: SolverTable) -> float:
        """Largest absolute difference of levels and normal forms; infinity for another number of calls.

        Two tables are the same sampler if and only if their distance is 0.
        """
        if self.nfe != other.nfe:
            return float("inf")
        pairs = ((self.alphas, other.alphas), (self.sigmas, other.sigmas), (self._normal_form, other._normal_form))
        return max(float(np.max(np.abs(mine - theirs))) for mine, theirs in pairs)

    def unrolled(self) -> SolverTable:
        """The same sampler with every row in normal form: ``x_0`` and all earlier outputs."""
        rows = tuple(
            Row({0: float(self.a[k])}, {j: float(self.b[k, j]) for j in range(k)}).pruned()
            for k in range(1, self.nfe + 1)
        )
        return replace(self, rows=rows)

    def chained(self) -> SolverTable:
        """The same sampler; every row reads the state before it, and outputs.

        Use this form if states are changed between the calls, as by inpainting: a row in normal form would not see the
        change. A row after a state with ``a = 0`` reads the first state, too.
        """
        rows = []
        for k in range(1, self.nfe + 1):
            ratio = float(self.a[k] / self.a[k - 1]) if self.a[k - 1] != 0 else 0.0
            first = {0: float(self.a[k])} if self.a[k - 1] == 0 else {}
            weights = self.b[k] - ratio * self.b[k - 1]
            outputs = {j: float(weights[j]) for j in range(k)}
            rows.append((Row({k - 1: ratio}, outputs) + Row(first)).pruned())
        return replace(self, rows=tuple(rows))

    def rescaled(self, factors: Array) -> SolverTable:
        """The same sampler in another frame: its state k is ``factors[k]`` times state k of this table.

        Args:
            factors: Positive, shape ``(K + 1,)``; they multiply alphas and sigmas, too.
        """
        scale = [float(f) for f in factors]
        rows = tuple(
            Row(
                {i: w * scale[k] / scale[i] for i, w in row.states.items()},
                {j: w * scale[k] for j, w in row.outputs.items()},
            )
            for k, row in enumerate(self.rows, start=1)
        )
        return replace(self, alphas=self.alphas * factors, sigmas=self.sigmas * factors, rows=rows)

    def lingering(self, counts: Sequence[int]) -> SolverTable:
        """The same sampler with further network calls at its grid levels, which do not change the state.

        Later rows read the last of the calls at a level.

        Args:
            counts: How many states there are at every grid level, at least 1.
        """
        extra = dict(zip(self.grid, counts, strict=True))
        place: list[int] = []  # of every state of this table, its last one in the new table
        rows: list[Row] = []
        for k in range(self.nfe + 1):
            if k:
                row = self.rows[k - 1]
                rows.append(
                    Row(
                        {place[i]: weight for i, weight in row.states.items()},
                        {place[j]: weight for j, weight in row.outputs.items()},
                    )
                )
            for _ in range(extra.get(k, 1) - 1):
                rows.append(Row({len(rows): 1.0}))
            place.append(len(rows))
        origin = np.searchsorted(np.array(place), np.arange(len(rows) + 1))
        grid = tuple(n for n, k in enumerate(origin.tolist()) if k in extra)
        return replace(self, alphas=self.alphas[origin], sigmas=self.sigmas[origin], rows=tuple(rows), grid=grid)

    def step_of_row(self, k: int) -> int:
        """Index of the grid state from which the step that contains row ``k`` (1 … K) starts."""
        return max(g for g in self.grid if g < k)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The ``K + 1`` sigmas as Python floats; the network is told the first ``K``."""
        return tuple(self.sigmas.tolist())

    @cached_property
    def last_reader(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The last row that reads each state, and the last row that reads each output (0: none).

        A state counts as read by its own network call, so state ``k`` is held at least until row ``k + 1``.
        """
        states, outputs = [k + 1 for k in range(self.nfe + 1)], [0] * self.nfe
        for k, row in enumerate(self.rows, start=1):
            for i in row.states:
                states[i] = max(states[i], k)
            for j in row.outputs:
                outputs[j] = max(outputs[j], k)
        return tuple(states), tuple(outputs)

    @cached_property
    def window(self) -> int:
        """Most states and outputs that a run holds at once, each until the last row that reads it."""
        states, outputs = self.last_reader
        return max(
            sum(states[i] >= k for i in range(k)) + sum(outputs[j] >= k for j in range(k))
            for k in range(1, self.nfe + 1)
        )
