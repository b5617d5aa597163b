r"""What a run tells of its samples at no network call.

At call k the network saw a state x and returned a clean prediction D. For every sample there are, over its entries,

==============  =====================================================================  ================
``state``       log root-mean-square of x                                              every call
``prediction``  log root-mean-square of D                                              every call
``noise``       log root-mean-square of the implied noise :math:`(x - \alpha D) /      every call
                \sigma`, near 0 if level and network agree, whatever the data
``mean``        mean of D over its root-mean-square                                    every call
``peak``        log of the mean of :math:`D^4` over the squared mean of :math:`D^2`    every call
``change``      log root-mean-square of the change :math:`c_k = D_k - D_{k-1}`         from the second
``turn``        cosine of :math:`c_k` and :math:`c_{k-1}`                              from the third
==============  =====================================================================  ================

Large states are looked at in part: runs of neighbouring entries, evenly spread.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.table import SolverTable

__all__ = ["Recorder", "names"]

#: Samples of so many entries are looked at as a whole; of larger samples about ``_PART`` entries are, in runs of
#: ``_RUN``, a line of a processor's cache.
_WHOLE, _PART, _RUN = 4096, 1024, 16
#: Calls that are summed over together: few kernels, and little memory.
_TOGETHER = 8
#: Least root-mean-square, in place of 0: its logarithm is finite.
_LEAST = 1e-12
#: Statistics, and the first call that has them.
_FIRST = {"state": 0, "prediction": 0, "noise": 0, "mean": 0, "peak": 0, "change": 1, "turn": 2}
#: Statistics that are the logarithm of a root-mean-square.
_LENGTHS = ("state", "prediction", "noise", "change")


def names(nfe: int) -> list[str]:
    """Names of the statistics of a run of ``nfe`` network calls, such as ``"noise 3"``, in their order."""
    return [f"{kind} {k}" for k in range(nfe) for kind, first in _FIRST.items() if k >= first]


class Recorder:
    """A callback of :func:`~longstride.sampler.sample` that records the statistics of all samples.

    During the run it copies what it looks at. Sums are taken over several calls together, in float32 or better, on the
    device of the states. Nothing waits for the device before :meth:`read`.

    Args:
        table: The table that is run.
    """

    def __init__(self, table: SolverTable) -> None:
        self.table, self._alphas = table, table.alphas.tolist()
        self._begin()

    def _begin(self) -> None:
        self.calls, self._entries = 0, 1
        self._states: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {kind: [] for kind in _FIRST}
        self._before: Tensor | None = None
        self._change: Tensor | None = None

    def __call__(self, k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
        if k == 0:
            self._begin()
        self._states.append(_thinned(x))
        self._predictions.append(_thinned(prediction))
        self.calls += 1
        if len(self._states) == _TOGETHER:
            self._fold()

    def _fold(self) -> None:
        """Sum over the entries of the calls since the last time, and let go of them."""
        first = self.calls - len(self._states)
        implied = [
            torch.sub(x, clean, alpha=alpha)
            for x, clean, alpha in zip(self._states, self._predictions, self._alphas[first:], strict=False)
        ]
        states, clean = torch.stack(self._states), torch.stack(self._predictions)
        changes = torch.diff(clean, dim=0, prepend=None if self._before is None else self._before[None])
        around = changes if self._change is None else torch.cat([self._change[None], changes])
        found = {
            "state": torch.linalg.vector_norm(states, dim=2),
            "prediction": torch.linalg.vector_norm(clean, dim=2),
            "noise": torch.linalg.vector_norm(torch.stack(implied), dim=2),
            "mean": clean.sum(2),
            "peak": torch.linalg.vector_norm(clean.square(), dim=2),
            "change": torch.linalg.vector_norm(changes, dim=2),
            "turn": torch.linalg.vecdot(around[1:], around[:-1]),
        }
        for kind, sums in found.items():
            self._sums[kind].append(sums)
        self._entries, self._before = clean.shape[2], clean[-1]
        self._change = changes[-1] if len(changes) else None
        self._states, self._predictions = [], []

    def read(self, calls: int | None = None) -> Array:
        """The statistics, shape ``(B, F)``, in the order of :func:`names`; NaN in place of what is not finite.

        Args:
            calls: Number of calls so far; default: those of a whole run. The statistics are the first of a whole run's.

        Raises:
            InputError: the run has made another number of calls.
        """
        nfe = self.table.nfe if calls is None else calls
        if self.calls != nfe:
            told = "of a whole run" if calls is None else "so far"
            raise InputError(f"expected the {nfe} network calls {told}, got {self.calls}")
        if self._states:
            self._fold()
        n = self._entries
        found = torch.cat([part for kind in _FIRST for part in self._sums[kind]]).detach().double().cpu().numpy()
        found = np.where(np.isfinite(found), found, np.nan)
        statistics, places = np.empty((found.shape[1], len(found))), _places(nfe)
        sums, begin = dict[str, Array](), 0
        for kind, place in places.items():
            sums[kind] = found[begin : begin + len(place)]
            begin += len(place)
        size = {kind: np.maximum(sums[kind] / math.sqrt(n), _LEAST) for kind in _LENGTHS}
        values = {kind: np.log(one) for kind, one in size.items()}
        values["noise"] -= np.log(self.table.sigmas[:nfe, None])
        values["mean"] = sums["mean"] / n / size["prediction"]
        fourth = np.maximum(sums["peak"] ** 2 / n, _LEAST**4)
        values["peak"] = np.log(fourth) - 4 * values["prediction"]
        values["turn"] = sums["turn"] / n / (size["change"][1:] * size["change"][:-1])
        for kind, place in places.items():
            statistics[:, place] = values[kind].T
        return statistics


@lru_cache(maxsize=64)
def _places(nfe: int) -> dict[str, list[int]]:
    """Where the statistics of a kind stand in :func:`names`, in the order of their calls."""
    known = {name: place for place, name in enumerate(names(nfe))}
    return {kind: [known[f"{kind} {k}"] for k in range(first, nfe)] for kind, first in _FIRST.items()}


def _thinned(tensor: Tensor) -> Tensor:
    """A copy of the entries that are looked at, ``(B, n)``, in float32 or better."""
    part = tensor.reshape(len(tensor), -1)
    if part.shape[1] > _WHOLE:
        step = part.shape[1] // _PART
        runs = part.shape[1] // (step * _RUN)
        part = part[:, : runs * step * _RUN].reshape(len(part), runs, -1)[:, :, :_RUN]
    # A copy, since a network may reuse the memory of its output.
    return part.to(torch.promote_types(tensor.dtype, torch.float32), copy=True).flatten(1)
