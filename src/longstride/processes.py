"""Work shared between processes (``torchrun``, ``accelerate launch``): the same numbers as from one.

Work comes in numbered parts that do not depend on the number of processes. Each of n processes does every n-th part.
:func:`gather` gives every process all results in the order of the parts. Sums in that order are the same for any number
of processes, to the last bit.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

from longstride.arrays import Array

__all__ = ["gather", "is_first", "join", "mine", "rank_and_size", "wait"]

T = TypeVar("T")

#: What the processes did together last. If a thread of the process group freed it while the process ends, the process
#: would abort.
_last: list[distributed.Work] = []


def join(device: str = "cpu") -> None:
    """Join the processes that a launcher started beside this one; without a launcher do nothing.

    Args:
        device: Device of the network; NCCL connects CUDA devices, gloo all others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # They meet only between long pieces of work: a late process is not a dead one.
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(days=30))
    atexit.register(distributed.destroy_process_group)  # its threads abort a process that ends before they do


def rank_and_size() -> tuple[int, int]:
    """Number of this process, counted from 0, and number of processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_first() -> bool:
    """Whether this process is the one that writes results and talks to the user."""
    return rank_and_size()[0] == 0


def mine(parts: Sequence[T]) -> list[T]:
    """The parts that this process does: every n-th from its own number on, for n processes."""
    rank, size = rank_and_size()
    return list(parts[rank::size])


def wait() -> None:
    """Wait until every process has called this."""
    if rank_and_size()[1] > 1:
        _together(distributed.barrier(async_op=True))


def _together(work: distributed.Work | None) -> None:
    """Wait for what all processes do, and keep it until they do the next."""
    assert work is not None  # None comes from a process that does not take part
    work.wait()
    _last[:] = [work]


def gather(found: Mapping[int, Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Results of all parts, in order, on every process.

    Args:
        found: Results of this process by number of the part, float64.
        shapes: Shape of the result of every part.
    """
    if rank_and_size()[1] == 1:
        return [np.asarray(found[n], np.float64) for n in range(len(shapes))]
    sizes = [int(np.prod(shape)) for shape in shapes]
    ends = np.cumsum(sizes)
    packed = torch.zeros(int(ends[-1]), dtype=torch.float64)
    for n, value in found.items():
        packed[ends[n] - sizes[n] : ends[n]] = torch.from_numpy(np.ascontiguousarray(value, np.float64)).flatten()
    if distributed.get_backend() == "nccl":
        packed = packed.cuda()
    _together(distributed.all_reduce(packed, async_op=True))
    flat = packed.cpu().numpy()
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
