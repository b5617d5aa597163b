r"""The last row of a table, solved for: no network call follows it, and the last state is linear in its weights.

The last row weighs *terms* :math:`v_i`: the first state and all outputs, or the states and outputs that a recurrence
reads. The last state is :math:`x_K(w) = \sum_i w_i v_i`. A run with the weights :math:`w_0` leaves the residual
:math:`r = x^* - x_K(w_0)`. Every sample keeps its inner products :math:`\langle v_i, v_j \rangle`,
:math:`\langle v_i, r \rangle` and :math:`|r|^2`. They give its squared error under any other last row,

.. math:: e(w) = |r|^2 - 2\, (w - w_0)^T \langle v, r \rangle + (w - w_0)^T \langle v, v \rangle\, (w - w_0),

without a network call. Iteratively reweighted least squares over these errors gives the best last row. A search over
the other free numbers that solves for the linear weights at every trial is the method of variable projection.

References:
    Golub & Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose variables
    separate, SIAM J. Numer. Anal. 1973; Holland & Welsch, Robust regression using iteratively reweighted
    least-squares, 1977.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from longstride.arrays import Array, double, infinite_for_nan
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations, Pull
from longstride.journal import digest
from longstride.parameters import FARTHEST, Parameters
from longstride.sampler import DenoiserLike, Run
from longstride.table import Row, SolverTable

__all__ = ["LastRows", "Terms"]

#: Most rounds of reweighting, and the part of the squared errors below which the change of the last states ends them.
_ROUNDS, _SETTLED = 20, 1e-9
#: Ridge of a round, relative to the energy of each term: outputs of neighbouring calls are alike.
_DAMPING = 1e-9


@dataclass(frozen=True)
class Terms:
    """The terms of a last row.

    Attributes:
        states: Indices of states.
        outputs: Indices of outputs.
    """

    states: tuple[int, ...]
    outputs: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.states) + len(self.outputs)

    @classmethod
    def of(cls, table: SolverTable, parameters: Parameters) -> Terms:
        """The terms that the last row of ``table`` weighs, and the outputs whose weights in that row are free."""
        row = table.rows[-1]
        free = {one.j for one in parameters.last if one.kind == "weight"}
        return cls(tuple(sorted(row.states)), tuple(sorted({*row.outputs, *free})))

    def weights(self, table: SolverTable) -> Array:
        """Weights of the terms in the last row of ``table``, shape ``(t,)``, states first."""
        row = table.rows[-1]
        return np.array([row.states[i] for i in self.states] + [row.outputs.get(j, 0.0) for j in self.outputs])

    def free(self, table: SolverTable, parameters: Parameters) -> NDArray[np.bool_]:
        """Which weights of the terms are free, shape ``(t,)``."""
        movable = zip(parameters.all, parameters.free(table), strict=True)
        last = {(one.kind, one.j) for one, may in movable if may and one.k == table.nfe}
        states = [i == 0 and ("column", 0) in last for i in self.states]
        return np.array(states + [("weight", j) in last for j in self.outputs])

    def numbers(self, parameters: Parameters) -> list[int | None]:
        """Place of every term's weight among the free numbers of ``parameters``, or None, ``t`` entries."""
        places = {(one.kind, one.j): n for n, one in enumerate(parameters.all) if one.k == parameters.nfe}
        states = [places.get(("column", 0)) if i == 0 else None for i in self.states]
        return states + [places.get(("weight", j)) for j in self.outputs]

    def too_far(self, weights: Array, new: Array) -> NDArray[np.bool_]:
        """Which new weights of states change their sign, or by a factor above ``exp(FARTHEST)``, shape ``(t,)``."""
        far = np.zeros(len(self), bool)
        for n in range(len(self.states)):
            ratio = new[n] / weights[n] if weights[n] else 1.0
            far[n] = not np.exp(-FARTHEST) <= ratio <= np.exp(FARTHEST)
        return far

    def table(self, table: SolverTable, weights: Array) -> SolverTable:
        """``table`` with other weights of the terms in its last row."""
        numbers, n = weights.tolist(), len(self.states)
        row = Row(dict(zip(self.states, numbers[:n], strict=True)), dict(zip(self.outputs, numbers[n:], strict=True)))
        return replace(table, rows=(*table.rows[:-1], row), exact=False)

    def key(self, table: SolverTable) -> str:
        """A digest that tables share if they differ in the weights of these terms in the last row alone."""
        return digest(table.sigmas, table.alphas, table.a[:-1], table.b[:-1], self.states, self.outputs)


@dataclass(frozen=True)
class LastRows:
    """Squared errors of samples under any last row, by their inner products.

    Attributes:
        gram: ``<v, v>`` of every sample, mean over its entries, shape ``(B, t, t)``.
        moment: ``<v, r>``, shape ``(B, t)``.
        squared: ``<r, r>``, shape ``(B,)``; infinite in place of NaN.
    """

    gram: Array
    moment: Array
    squared: Array

    @staticmethod
    @torch.inference_mode()
    def measured(
        denoiser: DenoiserLike, noise: torch.Tensor, table: SolverTable, terms: Terms, target: torch.Tensor
    ) -> LastRows:
        """Inner products of a run of ``table`` from ``noise`` ``(b, *)``; K network calls."""
        run = Run(noise, table, keep=True)
        run.finish(denoiser)
        return LastRows.of_run(run, terms, target)

    @staticmethod
    @torch.inference_mode()
    def of_run(run: Run, terms: Terms, target: torch.Tensor) -> LastRows:
        """Those of a run that has ended and has kept its states and outputs."""
        end = run.x
        states, outputs = run.history.states, run.history.outputs
        seen = [*(states[i] for i in terms.states), *(outputs[j] for j in terms.outputs), target - end]
        vectors = torch.stack([double(tensor).flatten(1) for tensor in seen], 1)
        products = (vectors @ vectors.mT / vectors.shape[-1]).cpu().numpy()
        return LastRows(products[:, :-1, :-1], products[:, :-1, -1], infinite_for_nan(products[:, -1, -1]))

    def pack(self) -> Array:
        """Everything as one array, shape ``(B, t² + t + 1)``."""
        return np.concatenate([self.gram.reshape(len(self.gram), -1), self.moment, self.squared[:, None]], 1)

    @staticmethod
    def unpack(packed: Array, terms: int) -> LastRows:
        """The inverse of :meth:`pack` for a number of terms."""
        square = terms * terms
        gram = packed[:, :square].reshape(-1, terms, terms)
        return LastRows(gram, packed[:, square:-1], packed[:, -1])

    def over(self, scales: Array) -> LastRows:
        """Inner products in units of ``scales``, ``(B,)``."""
        return LastRows(self.gram / scales[:, None, None], self.moment / scales[:, None], self.squared / scales)

    def moved(self, by: Array) -> LastRows:
        """Inner products at the weights ``w_0 + by``, with ``by`` of shape ``(t,)``."""
        if not by.any():
            return self  # the same to the bit, also if an entry is not finite
        with np.errstate(invalid="ignore", over="ignore"):
            pulled = self.gram @ by
            squared = self.squared - 2 * self.moment @ by + pulled @ by
        return replace(self, moment=self.moment - pulled, squared=infinite_for_nan(np.maximum(squared, 0)))

    def best(
        self,
        loss: Loss,
        free: NDArray[np.bool_],
        pull: Pull | None = None,
        weights: Array | None = None,
    ) -> Array:
        """Change of the weights with the least loss, shape ``(t,)``; all squared errors must be finite.

        Args:
            loss: The loss.
            free: Which weights may change, booleans of shape ``(t,)``.
            pull: Pull on the weights, ``t`` unknowns; default: none.
            weights: Weights of the samples in the loss, ``(B,)``; default: 1.
        """
        change = np.zeros(len(free))
        pulled = pull or Pull.plain(0.0, change)
        for _ in range(_ROUNDS):
            here = self.moved(change)
            weight = loss.weight(here.squared) * (1.0 if weights is None else weights)
            equations = NormalEquations(int(free.sum()))
            equations.gram = np.tensordot(weight, here.gram, 1)[np.ix_(free, free)]
            equations.moment = (weight @ here.moment)[free]
            step = equations.pulled(pulled.after(change).of(free)).solve(_DAMPING)
            change[free] += step
            if step @ equations.gram @ step <= _SETTLED * float(weight @ here.squared):
                break
        return change
