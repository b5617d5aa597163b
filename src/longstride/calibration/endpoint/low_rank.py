r"""Derivatives of the last states of a table by all of its free numbers, at a few network calls per level.

A free number of state i changes the later states x_k by :math:`\dot x_k`, and outputs by
:math:`\dot D_k = \partial_x D(x_k)\, \dot x_k`. A difference quotient for each number costs a network call per number
and level, :math:`K^3 / 6` in all. But at one level the changes :math:`\dot x_k` by all numbers are much alike. With
their principal directions :math:`u_1 \ldots u_r`, which are orthonormal,

.. math:: \dot D_k \approx \sum_i \langle u_i, \dot x_k \rangle\, n_i
          + \langle u_r, n_r \rangle \Big( \dot x_k - \sum_i \langle u_i, \dot x_k \rangle\, u_i \Big), \qquad
          n_i = \partial_x D(x_k)\, u_i.

So what the directions leave over is stretched as the least of them is. A level costs r calls, and one for its own
change. Directions are those of each sample, principal for changes that are likely beforehand, the rows of a matrix S:
of :math:`\dot x_k S^T S \dot x_k^T`.

All :math:`\dot x_k` are combinations of the first state, outputs and :math:`n_i`. So beside these tensors, r + 2 for
each level, coefficients and inner products alone are kept.

A network in bfloat16 answers too roughly for small differences along directions: exact derivatives are better there.

References:
    Halko, Martinsson & Tropp, Finding structure with randomness, SIAM Rev. 2011, for derivatives by a few directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.arrays import Array, double
from longstride.calibration.prefix_runs import PrefixRuns, answers
from longstride.parameters import Parameter, Parameters

__all__ = ["LowRank", "calls_of_low_rank"]

#: Step of a difference quotient, as a part of the root mean square of state and output.
_STEP = 2e-3
#: A direction whose variance is below this part of the largest is left out: float64's rounding made it.
_NOTHING = 1e-13
#: Entries of every vector, of all samples, that are held in float64 at once.
_ENTRIES = 2**14


@dataclass(frozen=True, eq=False)
class LowRank:
    """How derivatives are measured.

    Attributes:
        rank: r, the number of directions per level.
        spread: S, likely changes of the free numbers, shape ``(s, p)``.
    """

    rank: int
    spread: Array

    @torch.inference_mode()
    def ends(self, runs: PrefixRuns, parameters: Parameters, steps: Array, batch_size: int | None) -> list[Tensor]:
        """Last states if a free number moves by its step, to first order.

        Args:
            runs: Runs of the table, as :meth:`.Parameters.prepared` returns it.
            parameters: The free numbers.
            steps: Their steps, shape ``(p,)``.
            batch_size: Most samples per network call of several runs; None: every run makes its own calls.

        Returns:
            States ``(b, *)``, one per number that can move.
        """
        linear = _Linear(self, runs, parameters, steps, batch_size)
        # A run beside the table may overflow: then its ends are not finite.
        with np.errstate(invalid="ignore", over="ignore"):
            changes = steps[:, None] * linear.last()
        movable = np.flatnonzero(linear.free).tolist()
        return [(runs.end + linear.vectors.sum(changes[:, n])).to(runs.end) for n in movable]


def calls_of_low_rank(parameters: Parameters, rank: int) -> int:
    """Network calls per sample of :meth:`LowRank.ends`, the run of the table itself included.

    Args:
        parameters: The free numbers; all can move.
        rank: The number of directions per level.
    """
    return parameters.nfe + sum(one.kind == "level" for one in parameters.all) + sum(_directions(parameters, rank))


def _directions(parameters: Parameters, rank: int) -> list[int]:
    """Most directions at each level, ``K - 1`` entries: as many as free numbers change the state, if these are few."""
    return [min(rank, sum(_moves(one, k) for one in parameters.all)) for k in range(1, parameters.nfe)]


class _Linear:
    """Changes of states and outputs by all free numbers, as coefficients ``(b, p, v)`` of some vectors.

    Args:
        how: How derivatives are measured.
        runs: Runs of the table.
        parameters: The free numbers.
        steps: Their steps.
        batch_size: See :meth:`LowRank.ends`.
    """

    def __init__(
        self, how: LowRank, runs: PrefixRuns, parameters: Parameters, steps: Array, batch_size: int | None
    ) -> None:
        self.how, self.runs, self.parameters, self.steps = how, runs, parameters, steps
        self.table, self.free = runs.known, parameters.free(runs.known)
        self.together = max(1, (batch_size or 0) // runs.size)
        self.movable = [one for one, may in zip(parameters.all, self.free, strict=True) if may]
        room = 1 + 2 * self.table.nfe + sum(_directions(parameters, how.rank))
        self.vectors = _Vectors(runs.size, room)
        #: Places of the first state and of outputs among the vectors.
        self.first = self.vectors.add(runs.points[0].history.states[0])
        self.places = [self.vectors.add(runs.points[0].history.outputs[0])]

    def last(self) -> Array:
        """Changes of the last state."""
        nothing = np.zeros((self.runs.size, len(self.free), self.vectors.room))
        states, outputs, last_reader = {0: nothing}, [nothing], self.table.last_reader[0]
        for k, row in enumerate(self.table.rows, 1):
            change = nothing.copy()
            for i, weight in row.states.items():
                change += weight * states[i]
            for j, weight in row.outputs.items():
                change += weight * outputs[j]
            for n in np.flatnonzero(self.free).tolist():
                one = self.parameters.all[n]
                if one.k == k and one.kind == "weight":
                    change[:, n, self.places[one.j]] += 1
                elif one.k == k and one.kind == "column":
                    change[:, n, self.first] += row.states.get(0, 0.0)
            states = {i: one for i, one in (states | {k: change}).items() if i == k or last_reader[i] > k}
            if k < self.table.nfe:
                outputs.append(self._output(k, change))
                self.places.append(self.vectors.add(self.runs.points[k].history.outputs[k]))
        return states[self.table.nfe]

    def _output(self, k: int, change: Array) -> Array:
        """Changes of output k by changes of state k, and by its level."""
        found = np.zeros_like(change)
        if count := min(self.how.rank, sum(_moves(one, k) for one in self.movable)):
            gram = self.vectors.gram
            ways = _principal(self.how.spread @ change, gram, count)
            parts = change @ gram @ ways.swapaxes(1, 2)
            places = self._along(k, ways)
            found[..., places] += parts
            stretch = np.sum(ways[:, -1] * gram[:, :, places[-1]], 1)
            found += stretch[:, None, None] * (change - parts @ ways)
        for n in np.flatnonzero(self.free).tolist():
            if (one := self.parameters.all[n]).k == k and one.kind == "level":
                found[:, n, self._by_level(k, n)] += 1
        return found

    def _along(self, k: int, ways: Array) -> list[int]:
        """Places of the derivatives of output k along directions ``(b, r, v)`` of state k."""
        point = self.runs.points[k]
        x, here = point.history.states[k], point.history.outputs[k].to(point.history.dtype)
        size = (x.square() + here.square()).flatten(1).mean(1).sqrt()
        size = torch.where(size > 0, size, 1.0) * (_STEP * here[0].numel() ** 0.5)  # directions have length 1
        size = size.view(-1, *[1] * (x.dim() - 1))
        moved, places = [], list[int]()
        for way in ways.swapaxes(0, 1):
            run = point.fork(self.table)
            run.replace(x + size * self.vectors.sum(way))
            moved.append(run)
        for begin in range(0, len(moved), self.together):
            for output in answers(self.runs.network, moved[begin : begin + self.together]):
                places.append(self.vectors.add((output.to(here) - here) / size))
        return places

    def _by_level(self, k: int, n: int) -> int:
        """Place of the derivative of output k by its own level, free number n."""
        moved = self.parameters.moved(self.table, self.steps[n] * np.eye(len(self.free))[n])
        output = self.runs.start(moved, k).ask(self.runs.network)
        here = self.runs.points[k].history.outputs[k].to(self.runs.points[k].history.dtype)
        return self.vectors.add((output.to(here) - here) / self.steps[n])


class _Vectors:
    """Vectors of some samples, and their inner products in float64.

    Args:
        size: Number b of samples.
        room: Most vectors v.

    Attributes:
        gram: Inner products, shape ``(b, v, v)``; zeros where there is no vector yet.
    """

    def __init__(self, size: int, room: int) -> None:
        self.room, self.gram = room, np.zeros((size, room, room))
        self._chunk = max(1, _ENTRIES // size)
        self._flat: list[Tensor] = []
        self._shape = torch.Size()

    def add(self, tensor: Tensor) -> int:
        """Add a tensor ``(b, *)``; its place."""
        place, self._shape = len(self._flat), tensor.shape
        self._flat.append(tensor.flatten(1))
        for begin in range(0, self._flat[0].shape[1], self._chunk):  # float64 copies of all would need much memory
            part = [one[:, begin : begin + self._chunk].to(self._flat[0]) for one in self._flat]
            wide = double(torch.stack(part, 1))
            self.gram[:, place, : place + 1] += (wide @ wide[:, -1, :, None])[..., 0].cpu().numpy()
        self.gram[:, :place, place] = self.gram[:, place, :place]
        return place

    def sum(self, weights: Array) -> Tensor:
        """Sum of the vectors with weights ``(b, v)`` of each sample, in the shape of the tensors."""
        told = torch.from_numpy(weights).to(self._flat[0])
        total = torch.zeros_like(self._flat[0])
        for n, one in enumerate(self._flat):
            total += told[:, n, None] * one
        return total.view(self._shape)


def _moves(one: Parameter, k: int) -> bool:
    """Whether a free number changes state k: the level of state k does not."""
    return one.k < k or (one.k == k and one.kind != "level")


def _principal(changes: Array, gram: Array, count: int) -> Array:
    """Orthonormal principal directions of some changes, all as coefficients: ``(b, s, v)`` to ``(b, count, v)``.

    Directions that rounding made are zeros. Those of a sample that is not finite are NaN.
    """
    products = changes @ gram @ changes.swapaxes(1, 2)
    finite: NDArray[np.bool_] = np.isfinite(products).reshape(len(products), -1).min(1)
    variances, ways = np.linalg.eigh(np.where(finite[:, None, None], products, 0.0))
    far, ways = np.maximum(variances[:, ::-1][:, :count], 0.0), ways[:, :, ::-1][:, :, :count]
    known = far > _NOTHING * far[:, :1]
    scale = np.where(known, 1 / np.sqrt(np.where(known, far, 1.0)), 0.0)
    scale[~finite] = np.nan
    found: Array = scale[:, :, None] * (ways.swapaxes(1, 2) @ changes)
    return found
