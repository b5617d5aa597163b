"""What samples are drawn from: a network, or anything else that draws from seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from longstride.calibration.reference.solve import solve_reference
from longstride.card import Card
from longstride.denoiser import Denoiser
from longstride.guard import sample_guarded
from longstride.journal import digest, table_digest
from longstride.network import in_batches
from longstride.sampler import sample
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["Batch", "GuardedSampler", "NetworkSource", "Sampler", "Source"]

#: A table, or for other methods a function ``sampler(denoiser, noise)`` that returns the last state.
Sampler = SolverTable | Callable[[Denoiser, Tensor], Tensor]


class GuardedSampler:
    """A card with its guard as a sampler.

    Args:
        card: The card.

    Attributes:
        digest: Tells its samples from those of another table, base or guard.
        most_calls: Network calls of a sample that is made again.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self.digest = digest(table_digest(card.table), table_digest(card.base_table), repr(card.guard))
        self.most_calls = 2 * card.nfe

    def __call__(self, denoiser: Denoiser, noise: Tensor) -> Tensor:
        return sample_guarded(in_batches(denoiser, len(noise)), noise, self.card).samples


class Batch(Protocol):
    """Samples of some seeds, drawn by one sampler after another from the same noise."""

    def converged(self, check: int) -> tuple[Tensor, float, float]:
        """Converged samples ``(B, *)``, their error, and the forward passes without the check.

        Args:
            check: Number of samples on which the error is estimated; 0: the error is NaN.
        """
        ...

    def drawn(self, sampler: Any) -> tuple[Tensor, float]:
        """Samples ``(B, *)`` of a sampler, and the forward passes."""
        ...


class Source(Protocol):
    """Draws samples from seeds.

    Attributes:
        name: Name of the model.
        device: Where samples are.
        guidance: Guidance scale, or None.
        cost: Forward passes per network evaluation, as the source counts them.
        about: Further facts for the results, as plain data: ``model`` and ``grid``.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def guidance(self) -> float | None: ...
    @property
    def cost(self) -> int: ...
    @property
    def about(self) -> dict[str, Any]: ...

    def batch(self, seeds: range) -> Batch:
        """The samples of some seeds."""
        ...

    def pictures(self, samples: Tensor) -> Tensor:
        """Pictures ``(B, 1 or 3, H, W)`` of samples, nominally in [-1, 1]."""
        ...


@dataclass(frozen=True)
class NetworkSource:
    """Draws with a network, from the first to the last level of a table.

    Attributes:
        model: The pretrained model.
        guidance: Classifier-free guidance scale, or None.
        reference_steps: Steps of the converged solution.
        ends: Gives the first and the last level that all samplers share.
        grid: Name of the grid, for the results.
    """

    model: Model
    guidance: float | None
    reference_steps: int
    ends: SolverTable
    grid: str

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def cost(self) -> int:
        return 1 if self.guidance is None else 2

    @property
    def about(self) -> dict[str, Any]:
        model = {"name": self.model.name, "fingerprint": self.model.fingerprint, "classes": self.model.num_classes}
        return {"model": model, "grid": self.grid}

    def batch(self, seeds: range) -> _NetworkBatch:
        return _NetworkBatch(self, seeds)

    def pictures(self, samples: Tensor) -> Tensor:
        return self.model.pictures(samples)


@dataclass
class _NetworkBatch:
    source: NetworkSource
    seeds: range

    @cached_property
    def noise(self) -> Tensor:
        return self.source.model.noise(self.seeds, self.source.ends.sigmas[0])

    @cached_property
    def denoiser(self) -> Denoiser:
        return self.source.model.denoiser(self.seeds, self.source.guidance)

    def converged(self, check: int) -> tuple[Tensor, float, float]:
        ends, steps = self.source.ends, self.source.reference_steps
        found = solve_reference(self.denoiser, self.noise, ends, steps=steps, check_samples=check)
        return found.samples, found.error, float(found.nfe * len(self.seeds) * self.denoiser.cost)

    def drawn(self, sampler: Sampler) -> tuple[Tensor, float]:
        before = self.denoiser.calls
        if isinstance(sampler, SolverTable):
            samples = sample(in_batches(self.denoiser, len(self.noise)), self.noise, sampler)
        else:
            samples = sampler(self.denoiser, self.noise)
        return samples, float(self.denoiser.calls - before)
