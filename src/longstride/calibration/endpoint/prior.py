r"""What is known of a network's table before any of its samples: the tables of other networks.

The tables that suit networks best differ from universal tables by free numbers theta of mean 0 and covariance Sigma
(:func:`longstride.cores.choice.spread`). If the residuals of the best table have the mean square n per sample, theta is
most probable for

.. math:: \min_\theta\; \sum_i \rho(e_i) + \kappa\, n\, \theta^T \Sigma^{-1} \theta,

the objective of a fit with another last term, which counts about as much as :math:`\kappa` samples: a few samples
cannot move theta far where networks do not differ, and many samples move it anywhere. n is the mean weighted squared
residual of the present table, so that the prior has its full strength while errors are large. Steps minimise this sum;
whether a trial is better is judged by the samples alone.

If some numbers of a table are not free, Sigma is the covariance of the free ones, whatever the others are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.arrays import Array
from longstride.calibration.endpoint.last_row import Terms
from longstride.calibration.normal_equations import Pull
from longstride.nodes import Nodes
from longstride.parameters import Parameters
from longstride.solvers.universal import neighbours
from longstride.table import SolverTable

__all__ = ["Prior", "Ridge"]

#: Variance of every free number beside that of the networks, of weights where alpha is 1: tables may leave the form of
#: universal tables, which are exact on a point.
_LEAST = 1e-4
#: Part of the way to the tables of other networks at which free numbers are compared: levels must keep their order.
_STEP = 1e-4


@dataclass(frozen=True)
class Ridge:
    """A pull to the start of a fit of which nothing is known beforehand.

    Attributes:
        center: Free numbers of the start, shape ``(p,)``.
        strength: Epsilon.
        spread: Changes that are as likely as each other, shape ``(p, p)``: of a level, of the weight of the first
            state, of the weights of two neighbouring outputs in a row, whose sum stays, and of the first weight in a
            row.
    """

    center: Array
    strength: float
    spread: Array

    @staticmethod
    def of(table: SolverTable, parameters: Parameters, strength: float) -> Ridge:
        """The pull to ``table``."""
        places = {(one.kind, one.k, one.j): n for n, one in enumerate(parameters.all)}
        spread = np.eye(len(parameters))
        for n, one in enumerate(parameters.all):
            if one.kind == "weight" and (before := places.get(("weight", one.k, one.j - 1))) is not None:
                spread[n, before] = -1.0
        return Ridge(parameters.values(table), strength, spread)

    def on(self, values: Array, noise: float) -> Pull:
        """The pull at some free numbers; see :meth:`Prior.on`."""
        del noise
        return Pull.plain(self.strength, values - self.center)

    def on_last_row(self, table: SolverTable, terms: Terms, parameters: Parameters, noise: float) -> Pull:
        """The pull on the weights of the last row; see :meth:`Prior.on_last_row`."""
        del noise
        away = terms.weights(table) - terms.weights(parameters.with_values(table, self.center))
        return Pull.plain(self.strength, away)


@dataclass(frozen=True)
class Prior:
    """A pull to a universal table, by how much networks differ.

    Attributes:
        center: Free numbers of the universal table, shape ``(p,)``.
        precision: ``kappa Sigma^-1``, shape ``(p, p)``.
        spread: A root S of ``Sigma = S^T S``, shape ``(s, p)``.
    """

    center: Array
    precision: Array
    spread: Array

    @staticmethod
    def of(table: SolverTable, parameters: Parameters, strength: float) -> Prior | None:
        """The prior around a table; None if it is not a universal table or networks were not compared at its calls.

        Args:
            table: The table.
            parameters: The free numbers.
            strength: Kappa; 0: there is no prior.
        """
        tables = neighbours(table, _STEP) if strength else []
        if not tables:
            return None
        center = parameters.values(parameters.prepared(table))
        moves = (np.array([parameters.values(parameters.prepared(one)) for one in tables]) - center) / _STEP
        free = _everywhere(parameters.prepared(table), parameters, center)
        covariance = moves.T @ moves + _LEAST * free.T @ free
        spread: Array = np.linalg.qr(np.concatenate([moves, _LEAST**0.5 * free]))[1]
        return Prior(center, np.asarray(strength * np.linalg.inv(covariance), np.float64), spread)

    def on(self, values: Array, noise: float) -> Pull:
        """The pull at some free numbers, in the units of the equations.

        Args:
            values: The free numbers, shape ``(p,)``.
            noise: n.
        """
        precision = noise * self.precision
        return Pull(0.0, np.zeros(len(values)), precision, precision @ (values - self.center))

    def on_last_row(self, table: SolverTable, terms: Terms, parameters: Parameters, noise: float) -> Pull:
        """The pull on the weights of the last row, while the other free numbers stay.

        Args:
            table: The table.
            terms: The terms of its last row, ``t`` of them.
            parameters: The free numbers.
            noise: n.
        """
        values, places, weights = parameters.values(table), terms.numbers(parameters), terms.weights(table)
        slopes = np.concatenate([1 / weights[: len(terms.states)], np.ones(len(terms.outputs))])
        whole, known = self.on(values, noise), np.array([place is not None for place in places])
        chosen, slopes = [place or 0 for place in places], np.where(known, slopes, 0.0)
        precision = whole.precision[np.ix_(chosen, chosen)] * np.outer(slopes, slopes)
        return Pull(0.0, np.zeros(len(slopes)), precision, whole.gradient[chosen] * slopes)


def _everywhere(table: SolverTable, parameters: Parameters, values: Array) -> Array:
    """A move of every free number of the table where alpha is 1, in the free numbers of ``table``, shape ``(p, p)``.

    Row k has the factor ``alpha_k``, which a level takes along: ``d log alpha / d log(sigma / alpha)`` is ``-sigma^2``
    for ``vp`` and ``-sigma`` for ``flow``.
    """
    moves, power = np.eye(len(values)), {"ve": None, "vp": 2, "flow": 1}[Nodes(table.alphas, table.sigmas).family]
    for n, one in enumerate(parameters.all):
        if one.kind == "weight":
            moves[n, n] = table.alphas[one.k]
        elif one.kind == "level" and power is not None:
            for m, other in enumerate(parameters.all):
                if other.k == one.k and other.kind != "level":
                    moves[n, m] = -(table.sigmas[one.k] ** power) * (values[m] if other.kind == "weight" else 1.0)
    return moves
