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

#: Samples of so many entries are looked at as a whole; of larger samples about ``_PART`` entries are, in runs of
#: ``_RUN``, a line of a processor's cache.
_WHOLE, _PART, _RUN = 4096, 1024, 16
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
        self._norms: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._prediction: Tensor | None = None
        self._change: Tensor | None = None
        self._entries = 1

    def __call__(self, k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
        if k == 0:
            self._norms, self._sums, self._prediction, self._change = [], [], None, None
        state, clean = _thinned(x), _thinned(prediction)
        parts, sums = [state, clean, torch.sub(state, clean, alpha=self._alphas[k]), clean.square()], [clean.sum(1)]
        if self._prediction is not None:
            parts.append(change := clean - self._prediction)
            if self._change is not None:
                sums.append(torch.linalg.vecdot(change, self._change))
            self._change = change
        self._norms.append(torch.linalg.vector_norm(torch.stack(parts), dim=2))
        self._sums += sums
        self._prediction, self._entries = clean, state.shape[1]

    def read(self) -> Array:
        """The statistics, shape ``(B, F)``, in the order of :func:`names`; NaN in place of what is not finite.

        Raises:
            InputError: the run has not ended.
        """
        nfe, n = self.table.nfe, self._entries
        if len(self._norms) != nfe:
            raise InputError(f"expected the {nfe} network calls of a whole run, got {len(self._norms)}")
        found = torch.cat([*self._norms, torch.stack(self._sums)]).double().cpu().numpy()
        rows = {name: row for row, name in enumerate(_order(nfe))}
        finite = np.isfinite(found)
        found = np.where(finite, found, 1.0)
        size = np.maximum(found / math.sqrt(n), _LEAST)

        def of(kind: str) -> list[int]:
            return [rows[f"{kind} {k}"] for k in range(_FIRST[kind], nfe)]

        logs = np.log(size)
        logs[of("noise")] -= np.log(self.table.sigmas[:nfe, None])
        logs[of("mean")] = found[of("mean")] / n / size[of("prediction")]
        fourth = np.maximum(found[of("peak")] ** 2 / n, _LEAST**4)
        logs[of("peak")] = np.log(fourth) - 4 * logs[of("prediction")]
        changes = size[of("change")]
        logs[of("turn")] = found[of("turn")] / n / (changes[1:] * changes[:-1])
        statistics: Array = np.where(finite, logs, np.nan)[[rows[name] for name in names(nfe)]].T
        return statistics


def _order(nfe: int) -> list[str]:
    """Names of the statistics in the order in which a recorder keeps what they are made from: lengths, then sums."""
    kinds = (("state", "prediction", "noise", "peak", "change"), ("mean", "turn"))
    return [f"{kind} {k}" for part in kinds for k in range(nfe) for kind in part if k >= _FIRST[kind]]


def _thinned(tensor: Tensor) -> Tensor:
    """A copy of the entries that are looked at, ``(B, n)``, in float32 or better."""
    part = tensor.reshape(len(tensor), -1)
    if part.shape[1] > _WHOLE:
        step = part.shape[1] // _PART
        runs = part.shape[1] // (step * _RUN)
        part = part[:, : runs * step * _RUN].reshape(len(part), runs, -1)[:, :, :_RUN]
    # A copy, since a network may reuse the memory of its output.
    return part.to(torch.promote_types(tensor.dtype, torch.float32), copy=True).flatten(1)
