r"""The free numbers of a table, and the tables that differ in them.

A free number belongs to one state k; the network calls before state k do not depend on it. There are three kinds:

===========  ============================================  ==================================================
kind         number                                        change by theta
===========  ============================================  ==================================================
``weight``   weight :math:`w_{kj}` of output j in row k    :math:`w_{kj} + \theta`
``level``    :math:`l_k = \log(\sigma_k / \alpha_k)` at    :math:`l_k + g_k \tanh(\theta / g_k)`
             call k, 0 < k < K
``column``   weight :math:`v_k` of the first state in      :math:`v_k\, e^\theta`, theta cut to -1 … 1
             row k
===========  ============================================  ==================================================

The *room* :math:`g_k = \min(1, \tfrac12 |l_k - l_{k-1}|, \tfrac12 |l_k - l_{k+1}|)` keeps falling levels falling for
every theta. A level closer than 0.001 to a neighbour has no room and is not free, such as both levels of Heun's step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import alpha_of_ratio
from longstride.nodes import Nodes
from longstride.table import Row, SolverTable

__all__ = ["FARTHEST", "Parameter", "Parameters", "falling", "level_ratios"]

Kind = Literal["weight", "level", "column"]
#: Largest change in one step: of log(sigma / alpha), and of the logarithm of a weight of the first state. Least squares
#: would multiply a small such weight by any factor.
FARTHEST = 1.0
#: Largest part of its room that a level moves by: tanh rounds to 1, and two neighbours would meet.
_LARGEST_PART = 1 - 1e-4
#: A level closer than this to a neighbour, in log(sigma / alpha), has no room.
_CLOSEST = 1e-3
#: A weight of the first state up to this size is 0 but for rounding.
_NOTHING = 1e-12
#: Steps of the difference quotients: large against a network's rounding, and small for the ends to change linearly.
_STEPS: dict[Kind, float] = {"weight": 2e-3, "level": 1e-2, "column": 1e-2}


@dataclass(frozen=True)
class Parameter:
    """One free number.

    Attributes:
        kind: Kind of the number; see the module.
        k: State that the number belongs to.
        j: Output, for a ``weight``.
    """

    kind: Kind
    k: int
    j: int = 0

    @property
    def step(self) -> float:
        """Step of a difference quotient."""
        return _STEPS[self.kind]


class Parameters:
    """The free numbers of tables with K calls.

    Args:
        nfe: Calls K of the tables.
        levels: Whether levels are free.
        column: Whether the weights of the first state are free.
        window: Number of latest outputs whose weights in a row are free; None: all.

    Raises:
        InputError: a window below 1.
    """

    def __init__(self, nfe: int, *, levels: bool = True, column: bool = False, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise InputError(f"a window holds at least one output, got {window}")
        self.nfe, self.window = nfe, window
        reach = nfe if window is None else window
        self.all = [Parameter("weight", k, j) for k in range(1, nfe + 1) for j in range(max(0, k - reach), k)]
        self.all += [Parameter("level", k) for k in range(1, nfe) if levels]
        self.all += [Parameter("column", k) for k in range(1, nfe + 1) if column]

    def __len__(self) -> int:
        return len(self.all)

    @cached_property
    def steps(self) -> Array:
        """Steps of the difference quotients, shape ``(p,)``."""
        return np.array([one.step for one in self.all])

    @property
    def last(self) -> list[Parameter]:
        """Free numbers of the last row, which no network call follows."""
        return [one for one in self.all if one.k == self.nfe]

    def prepared(self, table: SolverTable) -> SolverTable:
        """``table`` as it is fitted: in normal form, or with a window in its own recurrence."""
        return table if self.window is not None else table.unrolled()

    def moved(self, table: SolverTable, theta: Array) -> SolverTable:
        """The table with its free numbers moved by ``theta``, shape ``(p,)``; theta = 0 is the table itself."""
        rows = [(dict(row.states), dict(row.outputs)) for row in table.rows]
        logs, room = np.log(level_ratios(table)), self._room(table)
        changed: list[int] = []
        for value, one in zip(theta.tolist(), self.all, strict=True):
            states, outputs = rows[one.k - 1]
            if value == 0:
                continue  # a new weight of 0 would make another row, and so another run
            if one.kind == "weight":
                outputs[one.j] = outputs.get(one.j, 0.0) + value
            elif one.kind == "column" and abs(states.get(0, 0.0)) > _NOTHING:
                states[0] *= float(np.exp(np.clip(value, -FARTHEST, FARTHEST)))
            elif one.kind == "level" and room[one.k] > 0:
                part = np.clip(np.tanh(value / room[one.k]), -_LARGEST_PART, _LARGEST_PART)
                logs[one.k] += room[one.k] * part
                changed.append(one.k)
        sigmas, alphas = table.sigmas.copy(), table.alphas.copy()
        if changed:
            ratios = np.exp(logs[changed])
            alphas[changed] = alpha_of_ratio(Nodes(table.alphas, table.sigmas).family, ratios)
            sigmas[changed] = alphas[changed] * ratios
        made = tuple(Row(*row) for row in rows)
        return replace(table, sigmas=sigmas, alphas=alphas, rows=made, exact=False)

    def free(self, table: SolverTable) -> NDArray[np.bool_]:
        """Which numbers can move at all on this table, shape ``(p,)``."""
        room = self._room(table)

        def may_move(one: Parameter) -> bool:
            if one.kind == "level":
                return bool(room[one.k] > 0)
            return one.kind == "weight" or abs(table.rows[one.k - 1].states.get(0, 0.0)) > _NOTHING

        return np.array([may_move(one) for one in self.all])

    def values(self, table: SolverTable) -> Array:
        """The free numbers, shape ``(p,)``: ``w_kj``, ``l_k`` and ``log |v_k|`` of the module."""
        logs, found = np.log(level_ratios(table)), []
        for one in self.all:
            row = table.rows[one.k - 1]
            if one.kind == "weight":
                found.append(row.outputs.get(one.j, 0.0))
            elif one.kind == "level":
                found.append(float(logs[one.k]))
            else:
                found.append(float(np.log(abs(row.states.get(0, 1.0)))))
        return np.array(found)

    def with_values(self, table: SolverTable, values: Array) -> SolverTable:
        """The table whose free numbers are ``values``; the inverse of :meth:`values`.

        Args:
            table: Gives the shape, the two ends, the signs of the column, and all numbers that are not free. A free
                number that is in ``values`` already stays the same to the bit.
            values: Shape ``(p,)``. If the levels of ``table`` fall, :func:`falling` makes the new levels fall, too.

        Raises:
            InputError: another number of values, or a value that is not finite.
        """
        if values.shape != (len(self.all),) or not np.isfinite(values).all():
            raise InputError(f"expected {len(self.all)} finite numbers, one per free number, got {values.shape}")
        rows = [(dict(row.states), dict(row.outputs)) for row in table.rows]
        old = np.log(level_ratios(table))
        logs, now, movable = old.copy(), self.values(table), self.free(table)
        for value, before, one, may in zip(values.tolist(), now.tolist(), self.all, movable, strict=True):
            states, outputs = rows[one.k - 1]
            if value == before or not may:
                continue
            if one.kind == "weight":
                outputs[one.j] = value
            elif one.kind == "column":
                states[0] = math.copysign(math.exp(value), states[0])
            else:
                logs[one.k] = value
        if (np.diff(old) < 0).all():
            logs = falling(logs)
        changed = np.flatnonzero(logs != old)
        sigmas, alphas = table.sigmas.copy(), table.alphas.copy()
        if len(changed):
            ratios = np.exp(logs[changed])
            alphas[changed] = alpha_of_ratio(Nodes(table.alphas, table.sigmas).family, ratios)
            sigmas[changed] = alphas[changed] * ratios
        made = tuple(Row(*row) for row in rows)
        if not len(changed) and made == table.rows:
            return table
        return replace(table, sigmas=sigmas, alphas=alphas, rows=made, exact=False)

    @staticmethod
    def _room(table: SolverTable) -> Array:
        """Room of every level, shape ``(K + 1,)``; see the module. It is 0 at both ends."""
        gaps = np.abs(np.diff(np.log(level_ratios(table))))
        nearer = np.minimum(gaps[:-1], gaps[1:])
        room = np.zeros(table.nfe + 1)
        room[1:-1] = np.where(nearer < _CLOSEST, 0.0, np.minimum(nearer / 2, FARTHEST))
        return room


def falling(logs: Array, least: float = 1e-3) -> Array:
    r"""``logs`` if it falls, else a falling array between the same ends.

    The differences :math:`d_k = l_{k-1} - l_k` with mean :math:`\bar d` become

    .. math:: d'_k = s \max(d_k,\, c\, \bar d), \qquad \textstyle\sum_k d'_k = \sum_k d_k.

    Args:
        logs: Array l of shape ``(K + 1,)``; its last entry lies below its first.
        least: The factor c.
    """
    ways = -np.diff(logs)
    if (ways > 0).all():
        return logs
    total = float(logs[0] - logs[-1])
    ways = np.maximum(ways, least * total / len(ways))
    found: Array = logs[0] - np.append(0.0, np.cumsum(ways)) * (total / ways.sum())
    found[-1] = logs[-1]
    return found


def level_ratios(table: SolverTable) -> Array:
    """``sigma / alpha`` of all states, shape ``(K + 1,)``, with alpha at least 1e-4, cut to 1e-12 … 1e12."""
    return np.clip(table.sigmas / np.maximum(table.alphas, 1e-4), 1e-12, 1e12)
