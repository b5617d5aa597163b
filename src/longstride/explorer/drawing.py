"""What the samplers of a scene draw: ends, every call of their runs, and errors against the converged solution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import Reference, solve_reference, squared_errors
from longstride.explorer.samplers import Sampler
from longstride.explorer.scene import Scene
from longstride.guard import sample_guarded
from longstride.network import in_batches
from longstride.sampler import sample
from longstride.table import SolverTable
from longstride.zoo import Model

__all__ = ["REFERENCE_STEPS", "Call", "Drawn", "converge", "draw", "errors_of"]

#: Steps of the converged solution.
REFERENCE_STEPS = 64
#: Most samples per network call.
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Call:
    """A network call of a run.

    Attributes:
        alpha: Scale of the picture in the state.
        sigma: Scale of the noise in the state.
        state: What the network was given, ``(B, *)``.
        prediction: The clean prediction that it returned, ``(B, *)``.
    """

    alpha: float
    sigma: float
    state: Tensor
    prediction: Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples of a sampler.

    Attributes:
        sampler: The sampler.
        samples: The ends ``(B, *)``: what ``longstride.sample`` returns.
        calls: Every network call of the table's run. A sample that the guard flags ends as the base's.
        flagged: Which samples the guard had made again, ``(B,)``.
        spent: Network calls per sample, those of samples that were made again included.
    """

    sampler: Sampler
    samples: Tensor
    calls: tuple[Call, ...]
    flagged: tuple[bool, ...]
    spent: float


def _start(model: Model, scene: Scene, table: SolverTable) -> tuple[Any, Tensor]:
    """The network, bound to the conditions of the scene, and the noise at the first level of a table."""
    labels = None if scene.label is None else torch.full((len(scene.seeds),), scene.label)
    denoiser = model.denoiser(scene.seeds, scene.guidance, labels)
    return in_batches(denoiser, _BATCH), model.noise(scene.seeds, table.levels[0])


def draw(model: Model, scene: Scene, sampler: Sampler) -> Drawn:
    """Draw the samples of a scene.

    Raises:
        InputError: the model cannot be guided, or does not know the class.
        NonFiniteError: the network returned NaN or infinity.
    """
    table, seen = sampler.table, list[Call]()
    network, noise = _start(model, scene, table)

    def see(k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
        seen.append(Call(float(table.alphas[k]), sigma, x.cpu().clone(), prediction.cpu().clone()))

    ends = sample(network, noise, table, callback=see)
    flagged, spent = (False,) * len(noise), float(table.nfe)
    if sampler.guarded is not None:
        found = sample_guarded(network, noise, sampler.guarded)
        ends, flagged, spent = found.samples, tuple(found.flagged.tolist()), found.calls
    return Drawn(sampler, ends.cpu(), tuple(seen), flagged, spent)


def converge(model: Model, scene: Scene, table: SolverTable) -> Reference:
    """The converged solution of a scene, from the first to the last level of a table."""
    network, noise = _start(model, scene, table)
    found = solve_reference(network, noise, table, steps=REFERENCE_STEPS, check_samples=min(4, len(noise)))
    return replace(found, samples=found.samples.cpu())


def errors_of(drawn: Drawn, reference: Reference) -> Array:
    """Root-mean-square error of every sample, ``(B,)``."""
    found: Array = np.sqrt(squared_errors(drawn.samples, reference.samples))
    return found
