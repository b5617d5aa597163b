"""One converged solution for all batches of a calibration: shared between processes, or passed in and checked."""

from __future__ import annotations

import numpy as np
import torch

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.normal_equations import Array, double
from longstride.calibration.reference import Reference, solve_reference, start_of
from longstride.errors import InputError
from longstride.table import SolverTable

__all__ = ["check_reference", "shared_reference"]


def check_reference(reference: Reference, batches: Batches, table: SolverTable, whole: bool) -> None:
    """Make sure that a reference is of these samples: of all, or of the held-out ones where these are enough."""
    held = batches.samples - batches.fitted
    which = {batches.samples: "all", held: "held-out"}
    if len(reference.samples) not in which or (whole and len(reference.samples) != batches.samples):
        needed = f"all {batches.samples}" if whole else f"the {held} held-out"
        raise InputError(f"the reference holds {len(reference.samples)} samples, but {needed} are needed")
    noise = batches.noise[-len(reference.samples) :]
    if reference.samples.shape != noise.shape:
        raise InputError(
            f"the reference holds samples of shape {tuple(reference.samples.shape[1:])}, but the noise has "
            f"{tuple(noise.shape[1:])}: solve it from the same noise"
        )
    if not torch.isfinite(reference.samples).all():
        raise InputError(
            "the reference holds NaN or infinity: check the network, its schedule and its precision, and solve it again"
        )
    if reference.start and reference.start != start_of(noise, table):
        raise InputError(
            f"the reference does not start from the {len(noise)} {which[len(noise)]} samples at sigma "
            f"{table.sigmas[0]:g} and end at {table.sigmas[-1]:g}: solve it from the same noise, between those levels"
        )


def shared_reference(
    batches: Batches, table: SolverTable, *, steps: int, floor: float, fitted: bool = False
) -> Reference:
    """Converged solution of the held-out samples, shared between the processes and journalled by batch.

    Args:
        batches: The samples.
        table: Gives the first and the last level.
        steps: Fine steps.
        floor: Least positive level.
        fitted: Whether the fitted samples are solved too; they come first.
    """
    samples: dict[int, Array] = {}
    facts: dict[int, Array] = {}
    numbers = [*(batches.numbers(held_out=False) if fitted else ()), *batches.numbers(held_out=True)]
    first = batches.numbers(held_out=True)[0]
    for batch in (b for b in batches.mine if b.number in numbers):

        def solve(batch: Batch = batch) -> dict[str, Array]:
            found = solve_reference(
                batch.denoiser,
                batch.noise,
                table,
                steps=steps,
                check_samples=8 if batch.number == first else 0,
                sigma_floor=floor,
            )
            return {"samples": double(found.samples).cpu().numpy(), "facts": np.array([found.error, float(found.nfe)])}

        part = batches.part(f"reference/{batch.number}", solve)
        samples[batch.number], facts[batch.number] = part["samples"], part["facts"]
    noise = batches.noise[0 if fitted else batches.fitted :]
    whole = np.concatenate(batches.gather(samples, numbers, lambda b: (b, *noise.shape[1:])))
    error, nfe = batches.gather(facts, numbers, lambda b: (2,))[numbers.index(first)]
    return Reference(torch.from_numpy(whole).to(noise), float(error), int(nfe), start_of(noise, table))
