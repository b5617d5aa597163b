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

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.table import SolverTable

__all__ = ["Recorder", "names"]

#: About the most entries of a sample that are looked at, and the length of a run of entries: a line of a cache.
_MOST, _RUN = 4096, 16
#: Least root-mean-square, in place of 0: its logarithm is finite.
_LEAST = 1e-12
#: Statistics, and the first call that has them.
_FIRST = {"state": 0, "prediction": 0, "noise": 0, "mean": 0, "peak": 0, "change": 1, "turn": 2}


def names(nfe: int) -> list[str]:
    """Names of the statistics of a run of ``nfe`` network calls, such as ``"noise 3"``, in their order."""
    return [f"{kind} {k}" for k in range(nfe) for kind, first in _FIRST.items() if k >= first]


class Recorder:
    """A callback of :func:`~longstride.sampler.sample` that records the statistics of all samples.

    Sums are taken in float32 or better on the device of the states. Nothing waits for the device before :meth:`read`.

    Args:
        table: The table that is run.
    """

    def __init__(self, table: SolverTable) -> None:
        self.table, self._alphas = table, table.alphas.tolist()
        self._found: list[Tensor] = []
        self._prediction: Tensor | None = None
        self._change: Tensor | None = None
        self._entries = 1

    def __call__(self, k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
        if k == 0:
            self._found, self._prediction, self._change = [], None, None
        state, clean = _thinned(x), _thinned(prediction)
        noise = _norm(torch.sub(state, clean, alpha=self._alphas[k])) / sigma
        found = [_norm(state), _norm(clean), noise, clean.sum(1), _norm(clean.square())]
        if self._prediction is not None:
            change = clean - self._prediction
            found.append(_norm(change))
            if self._change is not None:
                found.append((change * self._change).sum(1))
            self._change = change
        self._prediction, self._entries = clean, state.shape[1]
        self._found += found

    def read(self) -> Array:
        """The statistics, shape ``(B, F)``, in the order of :func:`names`; NaN in place of what is not finite.

        Raises:
            InputError: the run has not ended.
        """
        labels = names(self.table.nfe)
        if len(self._found) != len(labels):
            raise InputError(f"expected {len(labels)} statistics of a whole run, got {len(self._found)}")
        raw = torch.stack(self._found, dim=1).double().cpu().numpy()
        finite, place = np.isfinite(raw), {name: n for n, name in enumerate(labels)}
        raw, n = np.where(finite, raw, 1.0), self._entries
        size = np.maximum(raw / math.sqrt(n), _LEAST)  # root-mean-squares; other columns are replaced below
        found = np.log(size)

        def of(kind: str, k: int) -> Array:
            return size[:, place[f"{kind} {k}"]]

        for k in range(self.table.nfe):
            mean, peak = place[f"mean {k}"], place[f"peak {k}"]
            found[:, mean] = raw[:, mean] / n / of("prediction", k)
            found[:, peak] = np.log(np.maximum(raw[:, peak] ** 2 / n, _LEAST**4)) - 4 * np.log(of("prediction", k))
            if k > 1:
                turn = place[f"turn {k}"]
                found[:, turn] = raw[:, turn] / n / (of("change", k) * of("change", k - 1))
        return np.where(finite, found, np.nan)


def _thinned(tensor: Tensor) -> Tensor:
    """A copy of the entries that are looked at, ``(B, n)``, in float32 or better."""
    flat = tensor.reshape(len(tensor), -1)
    if (step := flat.shape[1] // _MOST) > 1:
        runs = flat.shape[1] // (step * _RUN)
        flat = flat[:, : runs * step * _RUN].reshape(len(flat), runs, -1)[:, :, :_RUN].flatten(1)
    # A copy, since a network may reuse the memory of its output.
    return flat.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _norm(values: Tensor) -> Tensor:
    """Euclidean norm of every row of ``(B, n)``."""
    found: Tensor = torch.linalg.vector_norm(values, dim=1)
    return found
