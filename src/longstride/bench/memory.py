"""Peak memory of a piece of work, by looking at the process many times a second."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

__all__ = ["PeakMemory", "device_name"]

#: Seconds between two looks.
_EVERY = 0.02


def device_name(tensor: torch.Tensor) -> str | None:
    """Name of the accelerator that holds ``tensor``, such as ``"NVIDIA H100 80GB HBM3"``; None on a CPU."""
    if tensor.device.type == "cuda":
        return str(torch.cuda.get_device_name(tensor.device))
    return None if tensor.device.type == "cpu" else tensor.device.type


class PeakMemory:
    """``with PeakMemory() as memory: ...``; then ``memory.peak_mib`` is what was needed beyond the start, in MiB.

    On a CUDA device the allocator's own peak is used, elsewhere the resident size of the process, which misses what
    is taken and given back between two looks, and what Python keeps from before.
    """

    peak_mib: float = 0.0

    def __enter__(self) -> PeakMemory:
        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        self._process, self._done = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            self.peak_mib = (torch.cuda.max_memory_allocated() - self._before) / 2**20
            return
        self._done.set()
        self._thread.join()
        self.peak_mib = max(0, self._peak - self._before) / 2**20
