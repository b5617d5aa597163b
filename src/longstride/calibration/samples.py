"""The samples of a calibration, and work on them: shared between processes, kept, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import Reference, least_level
from longstride.calibration.units import UNIT, Batch, Units
from longstride.errors import InputError
from longstride.journal import Journal, digest
from longstride.network import Network, in_batches
from longstride.processes import gather, is_first, rank_and_size
from longstride.sampler import DenoiserLike, Run
from longstride.table import SolverTable

__all__ = ["Samples"]


@dataclass
class _Ledger:
    """The changing part of samples.

    Attributes:
        calls: Network calls of this process so far, in samples, before and after restarts.
        held: Results for later calls, by name.
    """

    calls: int = 0
    held: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a calibration, fitted samples before held-out samples. Made by :meth:`of`.

    Attributes:
        network: The network, bound to the conditions of all samples.
        noise: First states of all samples, shape ``(B, *)``; the same on every process.
        fitted: Number of fitted samples.
        ends: Table that gives the first and the last level.
        floor: Least positive level that the network knows.
        steps: Steps of the reference solution.
        units: Units of work that the samples are cut into.
        batch_size: Most samples per network call.
        journal: Journal of finished units; see :meth:`kept`.
        reference: Reference solution of all samples or of the held-out samples, or None before it is solved.
    """

    network: Network
    noise: Tensor
    fitted: int
    ends: SolverTable
    floor: float
    steps: int
    units: Units
    batch_size: int
    journal: Journal = field(default_factory=Journal)
    reference: Reference | None = None
    ledger: _Ledger = field(default_factory=_Ledger, repr=False)

    @staticmethod
    def of(
        denoiser: DenoiserLike,
        noise: Tensor,
        ends: SolverTable,
        *,
        held_out: int | None = None,
        steps: int = 64,
        sigma_floor: float | None = None,
        unit: int = UNIT,
        batch_size: int | None = None,
    ) -> Samples:
        """The samples from ``noise``.

        Args:
            denoiser: The network, bound to the conditions of all samples.
            noise: First states of all samples, shape ``(B, *)``; the same on every process.
            ends: Gives the first and the last level.
            held_out: Number of samples, from the end, that are held out: ``1 … B - 1``; default: half.
            steps: Steps of the reference solution.
            sigma_floor: Least positive level that the network knows; default: see
                :func:`~longstride.calibration.reference.solve.least_level`.
            unit: Number of samples of a unit of work.
            batch_size: Most samples per network call; default: all at once.

        Raises:
            InputError: no fitted or no held-out sample is left, or a size below 1.
        """
        held = len(noise) // 2 if held_out is None else held_out
        if not 1 <= held < len(noise):
            raise InputError(f"of {len(noise)} samples {held} cannot be held out: keep at least one on either side")
        size = len(noise) if batch_size is None else batch_size
        if min(size, unit) < 1:
            raise InputError(f"batch size must be at least 1, got {min(size, unit)}")
        # In half precision a fit would take rounding of the states for error of the solver.
        noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
        network = in_batches(denoiser, size)  # a unit may be larger than what a call may hold
        floor = least_level(network.schedule, ends) if sigma_floor is None else sigma_floor
        units = Units(len(noise), len(noise) - held, unit)
        return Samples(network, noise, len(noise) - held, ends, floor, steps, units, size)

    def kept(self, folder: Path | None, about: Mapping[str, Any] | None = None) -> Samples:
        """The same samples for one piece of work, whose finished units are kept, and whose network calls start at 0.

        Args:
            folder: Where; None: nothing is kept.
            about: Plain data that, with the samples, tell this work from other work; a folder of other work is refused.

        Raises:
            InputError: the folder is of other work, of another network, or cannot be written.
        """
        if folder is None:
            return replace(self, journal=Journal(), ledger=_Ledger())
        work = {**(about or {}), "noise": digest(self.noise), "conditions": digest(self.network.condition or None)}
        work |= {"held_out": self.held_out, "sigma_floor": self.floor, "reference_steps": self.steps}
        work |= {"unit": self.units.size, "batch_size": self.batch_size, "parts": "by unit"}
        found = replace(self, journal=Journal(folder, work), ledger=_Ledger())
        with torch.inference_mode():
            one, k, sigmas = self.network.select(slice(0, 1)), self.ends.nfe // 2, self.ends.sigmas
            inner = self.noise[:1] * float(sigmas[k] / sigmas[0])
            seen = [one(self.noise[:1], float(sigmas[0])), one(inner, float(sigmas[k]))]
        found.journal.probe(torch.cat(seen))
        return found

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def held_out(self) -> int:
        """Number of held-out samples."""
        return len(self.noise) - self.fitted

    def of_units(self, values: Array, numbers: Sequence[int]) -> Array:
        """Those of the values ``(B, …)`` that belong to the samples of some units."""
        return np.concatenate([values[self.units.slices[n]] for n in numbers])

    def charge(self, others: Samples) -> None:
        """Count the network calls of other samples as calls of these, too."""
        self.ledger.calls += others.ledger.calls

    def batches(self, numbers: Sequence[int]) -> list[Batch]:
        """Batches of this process's units among ``numbers``; see :meth:`~.units.Units.groups`."""
        groups = self.units.groups(numbers, max(1, self.batch_size // self.units.size))
        return [self._batch(group) for group in groups]

    def _batch(self, group: tuple[int, ...]) -> Batch:
        parts = [self.units.slices[n] for n in group]
        sizes = tuple(map(self.units.count, group))
        index: slice | Tensor = slice(parts[0].start, parts[-1].stop)
        if parts[-1].stop - parts[0].start != sum(sizes):  # units of other processes lie between
            index = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        return Batch(group, sizes, index, self.noise[index], self.network.select(index))

    # Work

    def map(
        self,
        name: str,
        numbers: Sequence[int],
        function: Callable[[Batch], Sequence[Array]],
        shape: Callable[[int], tuple[int, ...]] = lambda b: (b,),
        **how: Any,
    ) -> list[Array]:
        """One result per unit, in the order of ``numbers``, on every process.

        Args:
            name: Name of the work; with the number of a unit it is the name of a part in the journal.
            numbers: Numbers of the units, the units of other processes included.
            function: Gives one result per unit of a batch; see :meth:`Batch.split`.
            shape: Shape of the result of a unit of b samples; default: one entry per sample.
            **how: Further arguments of :meth:`local`.
        """
        found = self.local(name, numbers, function, **how)
        shapes = [shape(self.units.count(n)) for n in numbers]
        return gather({numbers.index(n): value for n, value in found.items()}, shapes)

    def local(
        self,
        name: str,
        numbers: Sequence[int],
        function: Callable[[Batch], Sequence[Array]],
        *,
        again: bool = False,
        whole: bool = False,
        prepare: Callable[[Batch], object] | None = None,
    ) -> dict[int, Array]:
        """Results of this process's units alone, by number, for work that other processes need not know.

        A result in memory or in the journal is not computed again. Its network calls are counted once.

        Args:
            name: See :meth:`map`.
            numbers: See :meth:`map`.
            function: See :meth:`map`.
            again: Whether results are held in memory for later calls; they must be small.
            whole: Whether ``function`` takes whole batches alone. A batch is computed if any of its units
                is missing.
            prepare: Called before ``function``; its network calls are not counted.
        """
        held, found = self.ledger.held, dict[int, Array]()
        for batch in self.batches(numbers):
            for n in batch.units:
                if f"{name}/{n}" in held:
                    found[n] = held[f"{name}/{n}"]
                elif (kept := self.journal.get(f"{name}/{n}")) is not None:
                    found[n] = self._taken(kept)
        missing = [n for n in numbers if n not in found]
        for batch in self.batches(numbers if whole else missing):
            if not set(batch.units) & set(missing):
                continue
            if prepare is not None:
                prepare(batch)
            before = self.network.calls
            results = function(batch)
            shares = _shares(self.network.calls - before, batch.sizes)
            for n, result, calls in zip(batch.units, results, shares, strict=True):
                if n not in found:
                    part = {"value": np.asarray(result), "calls": np.array(float(calls))}
                    self.journal.put(f"{name}/{n}", part)
                    found[n] = self._taken(part)
        if again:
            held |= {f"{name}/{n}": value for n, value in found.items()}
        return found

    def hold(self, name: str, value: Array) -> None:
        """Hold a result of one unit in memory, for :meth:`map` with ``again``; an earlier one stays."""
        self.ledger.held.setdefault(name, value)

    def _taken(self, part: Mapping[str, Array]) -> Array:
        """The value of a part; its network calls are counted."""
        self.ledger.calls += int(part["calls"])
        return part["value"]

    def once(self, name: str, function: Callable[[], Array]) -> Array:
        """One result that every process computes, or reads from its journal; its network calls count once."""

        def compute() -> dict[str, Array]:
            before = self.network.calls
            return {"value": np.asarray(function()), "calls": np.array(float(self.network.calls - before))}

        part = self.journal(name, compute)
        return self._taken(part) if is_first() else part["value"]

    def call(self, name: str, batch: Batch, run: Run) -> Tensor:
        """The next network call of a run of a batch, from the journal if all units are there."""
        out, x = list[Tensor](), run.x

        def compute(part: slice) -> Tensor:
            if not out:
                out.append(run.ask(batch.network))
            return out[0][part]

        self.ledger.calls += len(x) * self.network.cost
        if self.journal.folder is None:
            return compute(slice(None))
        parts = [
            self.journal.tensor(f"{name}/{number}", partial(compute, part), like=x[part])
            for number, part in zip(batch.units, batch.slices, strict=True)
        ]
        return torch.cat(parts)

    def targets(self, batch: Batch) -> Tensor:
        """Reference samples of a batch; :attr:`reference` must hold them."""
        assert self.reference is not None
        solved, missing = self.reference.samples, len(self.noise) - len(self.reference.samples)
        if isinstance(batch.index, slice):
            return solved[batch.index.start - missing : batch.index.stop - missing]
        return solved[batch.index - missing]

    def total_calls(self) -> int:
        """Network calls so far in samples, over all processes."""
        rank, size = rank_and_size()
        return int(sum(float(c[0]) for c in gather({rank: np.array([float(self.ledger.calls)])}, [(1,)] * size)))


def _shares(calls: int, sizes: Sequence[int]) -> list[int]:
    """Network calls of a batch as whole numbers per unit, by its samples; their sum is ``calls``."""
    ends = np.cumsum([0, *sizes])
    return [int(share) for share in np.diff(calls * ends // ends[-1])]
