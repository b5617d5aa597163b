r"""Which numbers of a table are free, and the table that they make.

Three kinds, each belonging to one state k, so that a change leaves the network calls before it untouched:

===========  ============================================  ====================================================
kind         what it changes                               how
===========  ============================================  ====================================================
``weight``   weight of output j in row k                   added
``level``    the level that call k is told, 0 < k < K      :math:`\log(\sigma_k / \alpha_k)` moves by
                                                           :math:`g \tanh(\theta / g)`, g the way to the middle
                                                           between it and its neighbour
``column``   weight of the first state in row k            multiplied by :math:`e^\theta`
===========  ============================================  ====================================================

Levels that fall go on falling for every theta: nothing can pass the middle between two of them. A level that has no
room, such as the corrector's of a method of two calls per step, is not free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longstride.errors import InputError
from longstride.schedule import Family, alpha_of_ratio
from longstride.table import Row, SolverTable

__all__ = ["Unknown", "Unknowns"]

Array = NDArray[np.float64]
Kind = Literal["weight", "level", "column"]
#: Farthest that a level moves in log(sigma / alpha) at once.
_FARTHEST = 1.0
#: Steps of the difference quotients: small against what the outputs differ by, large against a network's rounding.
_STEPS: dict[Kind, float] = {"weight": 2e-3, "level": 1e-2, "column": 1e-2}


@dataclass(frozen=True)
class Unknown:
    """One free number.

    Attributes:
        kind: What it is; see the module.
        k: The state that it belongs to.
        j: Output that it weighs, for a ``weight``.
    """

    kind: Kind
    k: int
    j: int = 0

    @property
    def step(self) -> float:
        """Step of a difference quotient."""
        return _STEPS[self.kind]


class Unknowns:
    """The free numbers of tables of one shape.

    Args:
        nfe: Calls K of the tables.
        levels: Whether levels are free.
        column: Whether the weight of the first state is.
        window: Rows weigh so many of the latest outputs; None: all.

    Raises:
        InputError: a window below 1.
    """

    def __init__(self, nfe: int, *, levels: bool = True, column: bool = False, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise InputError(f"a window holds at least one output, got {window}")
        self.nfe, self.window = nfe, window
        reach = nfe if window is None else window
        self.all = [Unknown("weight", k, j) for k in range(1, nfe + 1) for j in range(max(0, k - reach), k)]
        self.all += [Unknown("level", k) for k in range(1, nfe) if levels]
        self.all += [Unknown("column", k) for k in range(1, nfe + 1) if column]

    def __len__(self) -> int:
        return len(self.all)

    @cached_property
    def steps(self) -> Array:
        """Steps of the difference quotients, shape ``(p,)``."""
        return np.array([one.step for one in self.all])

    def prepared(self, table: SolverTable) -> SolverTable:
        """``table`` in the form whose numbers are free: unrolled, unless a window keeps its recurrence."""
        return table if self.window is not None else table.unrolled()

    def moved(self, table: SolverTable, theta: Array) -> SolverTable:
        """The table with its free numbers moved by ``theta``, shape ``(p,)``; theta = 0 is the table itself."""
        rows = [(dict(row.states), dict(row.outputs)) for row in table.rows]
        logs, room = np.log(_ratios(table)), self._room(table)
        for value, one in zip(theta.tolist(), self.all, strict=True):
            states, outputs = rows[one.k - 1]
            if one.kind == "weight":
                outputs[one.j] = outputs.get(one.j, 0.0) + value
            elif one.kind == "column" and 0 in states:
                states[0] *= float(np.exp(value))
            elif one.kind == "level" and value != 0 and room[one.k] > 0:
                logs[one.k] += room[one.k] * np.tanh(value / room[one.k])
        sigmas, alphas = table.sigmas.copy(), table.alphas.copy()
        changed = [one.k for value, one in zip(theta, self.all, strict=True) if one.kind == "level" and value != 0]
        if changed:
            ratios = np.exp(logs[changed])
            alphas[changed] = alpha_of_ratio(_family(table), ratios)
            sigmas[changed] = alphas[changed] * ratios
        made = tuple(Row(*row) for row in rows)
        return replace(table, sigmas=sigmas, alphas=alphas, rows=made, exact=False)

    def free(self, table: SolverTable) -> NDArray[np.bool_]:
        """Which numbers can move at all on this table, shape ``(p,)``."""
        room = self._room(table)
        return np.array(
            [
                room[one.k] > 0 if one.kind == "level" else one.kind != "column" or 0 in table.rows[one.k - 1].states
                for one in self.all
            ]
        )

    def values(self, table: SolverTable) -> Array:
        """The free numbers themselves, shape ``(p,)``: weights, and logarithms of ratios and of the column."""
        logs, found = np.log(_ratios(table)), []
        for one in self.all:
            row = table.rows[one.k - 1]
            if one.kind == "weight":
                found.append(row.outputs.get(one.j, 0.0))
            elif one.kind == "level":
                found.append(float(logs[one.k]))
            else:
                found.append(float(np.log(abs(row.states.get(0, 1.0)))))
        return np.array(found)

    @staticmethod
    def _room(table: SolverTable) -> Array:
        """How far each level may move, shape ``(K + 1,)``: half of the way to its nearer neighbour."""
        gaps = np.abs(np.diff(np.log(_ratios(table))))
        room = np.zeros(table.nfe + 1)
        room[1:-1] = np.minimum(np.minimum(gaps[:-1], gaps[1:]) / 2, _FARTHEST)
        return room


def _ratios(table: SolverTable) -> Array:
    """``sigma / alpha`` of all states; very large and very small ones in place of infinity and 0."""
    return np.clip(table.sigmas / np.maximum(table.alphas, 1e-12), 1e-12, 1e12)


def _family(table: SolverTable) -> Family:
    if bool(np.all(table.alphas == 1)):
        return "ve"
    return "flow" if np.allclose(table.alphas + table.sigmas, 1, atol=1e-9) else "vp"
