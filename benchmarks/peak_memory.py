"""Peak memory of a piece of work, by looking at the process many times a second."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from types import TracebackType

import psutil
import torch

__all__ = ["PeakMemory", "device_name"]

#: Seconds between two looks.
_EVERY = 0.02


def device_name(device: torch.device) -> str | None:
    """Name of an accelerator, such as ``"NVIDIA H100 80GB HBM3"``; None for a CPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return None if device.type == "cpu" else device.type


class PeakMemory:
    """``with PeakMemory(device) as memory: ...``; then ``memory.peak_mib`` is what was needed beyond the start, in MiB.

    On a CUDA device the peak is the allocator's own. Elsewhere it is the resident size of the process, which misses
    memory that is taken and given back between two looks.

    Args:
        device: Where the work is done.
    """

    peak_mib: float = 0.0

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return self
        _give_back()
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
            self.peak_mib = (torch.cuda.max_memory_allocated(self._device) - self._before) / 2**20
            return
        self._done.set()
        self._thread.join()
        self.peak_mib = max(0, self._peak - self._before) / 2**20


def _give_back() -> None:
    """Let the C library return what was freed: growth from there on is what the work takes, not what it finds."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
