"""Fresh samples: from noise of their own, which no fit has seen."""

from __future__ import annotations

from dataclasses import replace

import torch

from longstride.calibration.samples import Samples
from longstride.calibration.units import Units
from longstride.journal import digest

__all__ = ["conditions", "fresh"]


def fresh(samples: Samples, purpose: str, count: int, part: slice = slice(None)) -> Samples:
    """Samples from noise of their own, all of them held out; the same on every process and device.

    Their conditions are those of the calibration's samples in turn.

    Args:
        samples: Samples of the calibration.
        purpose: Two purposes have different noise.
        count: Number of all samples of this purpose.
        part: Which of them.
    """
    generator = torch.Generator().manual_seed(int(digest(purpose, samples.noise)[:15], 16))
    like, sigma = samples.noise, float(samples.ends.sigmas[0])
    noise = torch.randn(count, *like.shape[1:], generator=generator, dtype=torch.float64)[part] * sigma
    made = replace(
        samples,
        network=samples.network.select(conditions(samples, count)[part]),
        noise=noise.to(like),
        fitted=0,
        units=Units(len(noise), 0, samples.units.size),
        reference=None,
    )
    folder = samples.journal.folder
    return made.kept(None if folder is None else folder / f"{purpose}-{part.start or 0}")


def conditions(samples: Samples, count: int) -> torch.Tensor:
    """Which samples of the calibration have the conditions of fresh samples, ``(count,)``."""
    return torch.arange(count) % len(samples)
