"""The reference solution of a calibration's samples: solved batch by batch, or passed in and checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from longstride.arrays import Array, double
from longstride.calibration.reference.solve import Reference, coarse_error, converged_table, start_of
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.errors import InputError
from longstride.sampler import sample

__all__ = ["checked_samples", "given", "solved"]

#: Held-out samples on which the error of the reference solution is estimated: half of them, at most so many.
_CHECKED = 8


def checked_samples(held_out: int) -> int:
    """Number of held-out samples on which the error of a reference solution is estimated."""
    return min(_CHECKED, -(-held_out // 2))


def given(samples: Samples, reference: Reference, *, whole: bool) -> Samples:
    """Samples with a reference solution that was passed in.

    Args:
        samples: The samples.
        reference: Reference solution of all samples, or of the held-out samples.
        whole: Whether all samples are needed.

    Raises:
        InputError: a reference solution of other samples, between other levels, or with NaN or infinity.
    """
    held = samples.held_out
    which = {len(samples): "all", held: "held-out"}
    if len(reference.samples) not in which or (whole and len(reference.samples) != len(samples)):
        needed = f"all {len(samples)}" if whole else f"the {held} held-out"
        raise InputError(f"the reference holds {len(reference.samples)} samples, but {needed} are needed")
    noise = samples.noise[-len(reference.samples) :]
    if reference.samples.shape != noise.shape:
        raise InputError(
            f"the reference holds samples of shape {tuple(reference.samples.shape[1:])}, but the noise has "
            f"{tuple(noise.shape[1:])}: solve it from the same noise"
        )
    if not torch.isfinite(reference.samples).all():
        raise InputError(
            "the reference holds NaN or infinity: check the network, its schedule and its precision, and solve it again"
        )
    if reference.start and reference.start != start_of(noise, samples.ends):
        raise InputError(
            f"the reference does not start from the {len(noise)} {which[len(noise)]} samples at sigma "
            f"{samples.ends.sigmas[0]:g} and end at {samples.ends.sigmas[-1]:g}: solve it from the same noise, between "
            "those levels"
        )
    return replace(samples, reference=reference)


def solved(samples: Samples, *, whole: bool) -> Samples:
    """Samples with the reference solution of all samples, or of the held-out samples.

    Args:
        samples: The samples.
        whole: Whether the fitted samples are solved, too.
    """
    held = samples.units.held_out
    numbers = [*(samples.units.fitted if whole else ()), *held]
    noise = samples.noise[0 if whole else samples.fitted :]
    fine = converged_table(samples.ends, samples.steps, samples.floor)

    def solve(batch: Batch) -> list[Array]:
        return batch.split(double(sample(batch.network, batch.noise, fine)).cpu().numpy())

    found = np.concatenate(samples.map("reference", numbers, solve, lambda b: (b, *noise.shape[1:])))
    converged = torch.from_numpy(found).to(noise)

    def check(batch: Batch) -> list[Array]:
        few = slice(min(checked_samples(samples.held_out), len(batch)))
        ends = converged[len(noise) - samples.held_out :][few]
        network = batch.network.select(few)
        error = coarse_error(network, batch.noise[few], samples.ends, ends, samples.steps, samples.floor)
        return [np.array([error])]

    (error,) = samples.map("reference-error", held[:1], check, lambda b: (1,))
    return replace(samples, reference=Reference(converged, float(error[0]), fine.nfe, start_of(noise, samples.ends)))
