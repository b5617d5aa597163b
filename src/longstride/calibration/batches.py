"""The samples of a calibration in batches: shared between processes, journalled, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.calibration.reference import select
from longstride.denoiser import Denoiser
from longstride.errors import InputError
from longstride.journal import Journal
from longstride.processes import gather, is_first, mine, rank_and_size
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["Batch", "Batches"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """Some consecutive samples.

    Attributes:
        number: Among all batches.
        part: Where they are among all samples.
        held_out: Whether they decide; otherwise they are fitted.
        noise: First states, shape ``(b, *)``.
        denoiser: The network, bound to them.
    """

    number: int
    part: slice
    held_out: bool
    noise: Tensor
    denoiser: DenoiserLike

    def __len__(self) -> int:
        return len(self.noise)


class _Counted:
    """Counts network calls of any callable, in samples."""

    def __init__(self, denoiser: DenoiserLike) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        self.calls += len(x)
        return self.denoiser(x, sigma)


class Batches:
    """Fitted samples first, then held-out ones; no batch holds both.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: First states of all samples, shape ``(B, *)``; the same on every process.
        held_out: How many samples, from the end, are held out: ``1 … B - 1``.
        batch_size: Most samples per network call; default: all at once.
        journal: Where finished parts are kept.

    Attributes:
        noise: First states of all samples.
        samples: Number of all samples.
        fitted: Number of those that are fitted; they come first.
        slices: Part of every batch, those of other processes included.
        mine: The batches that this process does.
        calls: Network calls so far in samples, here and before a restart, of this process.

    Raises:
        InputError: no sample would be left to fit or to decide, or a batch size below 1.
    """

    def __init__(
        self,
        denoiser: DenoiserLike,
        noise: Tensor,
        held_out: int,
        batch_size: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        if not 1 <= held_out < len(noise):
            raise InputError(f"of {len(noise)} samples {held_out} cannot be held out: keep at least one on either side")
        size = len(noise) if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"batch size must be at least 1, got {size}")
        self.noise, self.samples, self.fitted = noise, len(noise), len(noise) - held_out
        self.journal, self.calls = journal or Journal(), 0
        self._held: dict[str, dict[str, Array]] = {}
        network = denoiser if isinstance(denoiser, Denoiser) else _Counted(denoiser)
        self.denoiser: Denoiser | _Counted = network
        bounds = ((0, self.fitted), (self.fitted, self.samples))
        self.slices = [slice(b, min(b + size, end)) for begin, end in bounds for b in range(begin, end, size)]
        numbers = mine(range(len(self.slices)))
        self.mine = [
            Batch(n, part, part.start >= self.fitted, noise[part], select(network, part))
            for n, part in ((n, self.slices[n]) for n in numbers)
        ]

    def _count(self) -> int:
        return self.denoiser.calls

    def check_network(self, table: SolverTable) -> None:
        """Where finished parts are kept, make sure that they are from this network and these conditions.

        Args:
            table: Gives the two levels at which the first sample is looked at; these calls are not counted.

        Raises:
            InputError: they are not.
        """
        if self.journal.folder is None:
            return
        with torch.inference_mode():
            one, k = select(self.denoiser, slice(0, 1)), table.nfe // 2
            inner = self.noise[:1] * float(table.sigmas[k] / table.sigmas[0])
            seen = [one(self.noise[:1], float(table.sigmas[0])), one(inner, float(table.sigmas[k]))]
        self.journal.probe(torch.cat(seen))

    @property
    def held_out(self) -> list[Batch]:
        """This process's held-out batches."""
        return [batch for batch in self.mine if batch.held_out]

    def part(
        self,
        name: str,
        compute: Callable[[], Mapping[str, Array]],
        prepare: Callable[[], object] | None = None,
        *,
        again: bool = False,
        everywhere: bool = False,
    ) -> dict[str, Array]:
        """What a part of the work gave, from the journal where it is there; its network calls are counted once.

        Args:
            name: Of the part.
            compute: Does it.
            prepare: Called before ``compute``; its network calls are not counted.
            again: Whether it will be asked for again: it is then held in memory, too, and must be small.
            everywhere: Whether every process does it, or reads it: the first alone counts its calls.
        """
        if name in self._held:
            return self._held[name]

        def counted() -> dict[str, Array]:
            if prepare is not None:
                prepare()
            before = self._count()
            return {**compute(), "calls": np.array(float(self._count() - before))}

        found = self.journal(name, counted)
        calls = int(found.pop("calls"))
        self.calls += calls if not everywhere or is_first() else 0
        if again:
            self._held[name] = found
        return found

    def call(self, name: str, batch: Batch, x: Tensor, sigma: float) -> Tensor:
        """One network call, from the journal where it is there."""
        before = self._count()
        out = self.journal.tensor(f"{name}/{batch.number}", lambda: batch.denoiser(x, sigma), like=x)
        made = self._count() - before
        self.calls += made or len(x) * int(getattr(self.denoiser, "cost", 1))
        return out

    def numbers(self, *, held_out: bool) -> list[int]:
        """Numbers of all fitted, or of all held-out batches, those of other processes included."""
        return [n for n, part in enumerate(self.slices) if (part.start >= self.fitted) == held_out]

    def gather(
        self,
        found: Mapping[int, Array],
        numbers: Sequence[int],
        shape: Callable[[int], tuple[int, ...]] = lambda b: (b,),
    ) -> list[Array]:
        """One result per batch, in order, on every process.

        Args:
            found: This process's results by batch number.
            numbers: Of the batches that gave them, those of other processes included.
            shape: Shape of the result of a batch of b samples; default: one entry per sample.
        """
        shapes = [shape(self.slices[n].stop - self.slices[n].start) for n in numbers]
        return gather({numbers.index(n): value for n, value in found.items()}, shapes)

    def total_calls(self) -> int:
        """Network calls so far in samples, over all processes."""
        rank, size = rank_and_size()
        return int(sum(float(c[0]) for c in gather({rank: np.array([float(self.calls)])}, [(1,)] * size)))
