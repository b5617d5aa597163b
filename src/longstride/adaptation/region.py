r"""The trust region: a box around the card in use, and the step of least squares within it.

A free number :math:`\theta_i` with the value :math:`\bar\theta_i` on the card that the calibration made, and
:math:`\theta^0_i` on the card in use, may go to

.. math:: [\theta^0_i - s,\; \theta^0_i + s] \cap [\bar\theta_i - b,\; \bar\theta_i + b].

Levels keep two fifths of the way to each neighbour, so that two of them never meet. Whatever was measured, the step
lies in the box: it minimises

.. math:: \delta^T (G + \epsilon\, \mathrm{diag}\, G)\, \delta - 2 \delta^T g

over the box, by an active-set method.

References:
    Stark & Parker, Bounded-variable least-squares, Computational Statistics 1995; Nocedal & Wright, Numerical
    Optimization, 2006, Ch. 4.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import lsq_linear

from longstride.arrays import Array
from longstride.calibration.normal_equations import NormalEquations
from longstride.parameters import Parameters, level_ratios
from longstride.table import SolverTable

__all__ = ["bounded_step", "box", "largest_move"]

#: Largest part of the way to a neighbour that a level may go.
_PART = 0.4
#: Part of a bound that is left to rounding.
_INSIDE = 1 - 1e-9
#: Directions of a smaller share of the largest eigenvalue are not measured.
_LEAST = 1e-13


def box(
    parameters: Parameters, calibrated: SolverTable, table: SolverTable, step: float, bound: float
) -> tuple[Array, Array]:
    """Least and greatest change of every free number of ``table``, each of shape ``(p,)``; 0 lies between them.

    Args:
        parameters: The free numbers.
        calibrated: Table of the card that the calibration made, prepared.
        table: Table of the card in use, prepared.
        step: See the module: s.
        bound: See the module: b.
    """
    away = parameters.values(table) - parameters.values(calibrated)
    step, bound = _INSIDE * step, _INSIDE * bound
    low, high = np.maximum(-step, -bound - away), np.minimum(step, bound - away)
    logs = np.log(level_ratios(table))
    for n, one in enumerate(parameters.all):
        if one.kind == "level":
            low[n] = max(low[n], -_PART * abs(logs[one.k] - logs[one.k + 1]))
            high[n] = min(high[n], _PART * abs(logs[one.k - 1] - logs[one.k]))
    free = parameters.free(table)
    return np.minimum(np.where(free, low, 0.0), 0.0), np.maximum(np.where(free, high, 0.0), 0.0)


def bounded_step(equations: NormalEquations, ridge: float, low: Array, high: Array) -> Array:
    """The change with the least loss in the box, shape ``(p,)``; 0 if the equations are not finite.

    Args:
        equations: Equations over all free numbers.
        ridge: Pull towards 0, relative to the energy of each number.
        low: Least changes ``(p,)``, at most 0.
        high: Greatest changes ``(p,)``, at least 0.
    """
    found = np.zeros(len(low))
    energy, open_ = np.diag(equations.gram), low < high
    if not (np.isfinite(equations.gram).all() and np.isfinite(equations.moment).all()):
        return found
    open_ &= energy > 0
    if not open_.any():
        return found
    scale = np.sqrt(energy[open_])
    gram = equations.gram[np.ix_(open_, open_)] / np.outer(scale, scale) + ridge * np.eye(int(open_.sum()))
    values, vectors = np.linalg.eigh(gram)
    known = values > _LEAST * values[-1]
    root = np.sqrt(values[known])
    matrix = root[:, None] * vectors[:, known].T
    right = vectors[:, known].T @ (equations.moment[open_] / scale) / root
    solved = lsq_linear(matrix, right, (low[open_] * scale, high[open_] * scale), method="bvls", tol=1e-12)
    found[open_] = np.clip(np.nan_to_num(solved.x / scale), low[open_], high[open_])
    return found


def largest_move(parameters: Parameters, calibrated: SolverTable, table: SolverTable) -> float:
    """Largest distance of any free number of ``table`` from its value in ``calibrated``."""
    return float(np.abs(parameters.values(table) - parameters.values(calibrated)).max(initial=0.0))
