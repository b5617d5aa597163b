r"""Features beside the pixels that a calibration may compare: how sharp pictures are, whatever their place.

    longstride.calibrate(denoiser, noise, table, residual=edges)

=============  ===================================================================================================
function       features
=============  ===================================================================================================
``gradients``  differences of neighbours :math:`g_x, g_y`: a frequency w weighs
               :math:`4 \sin^2(w_x / 2) + 4 \sin^2(w_y / 2)`
``edges``      their local strength, :math:`\mathrm{pool}_2 \sqrt{g_x^2 + g_y^2 + \epsilon}`, in the picture halved 0, 1
               and 2 times
``moments``    standard deviations in windows of 2, 4 and 8 pixels,
               :math:`\sqrt{\mathrm{pool}(x^2) - \mathrm{pool}(x)^2 + \epsilon}`: local second moments are matched
=============  ===================================================================================================

None of the three beats plain pixels; ``docs/gauss-newton.md`` shows what each is worth. Any function from samples
``(B, *)`` to features ``(B, F)`` will do, such as early layers of a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from longstride import InputError

__all__ = ["edges", "gradients", "moments"]

#: Below the root of this a gradient or a contrast is not told from none: a square root has a kink at 0.
_FAINT = 1e-3


def _halved(name: str, samples: Tensor, scales: int = 3) -> Iterator[Tensor]:
    """Samples ``(B, C, H, W)``, halved 0, 1, … times.

    Raises:
        InputError: there are no pictures, or too small ones.
    """
    if samples.ndim != 4 or min(samples.shape[-2:]) < 12:
        raise InputError(
            f"residual {name!r} compares pictures or latents (B, C, H, W) of at least 12 × 12, got "
            f"{tuple(samples.shape)}: leave residual out"
        )
    for scale in range(scales):
        samples = F.avg_pool2d(samples, 2) if scale else samples
        yield samples


def _differences(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours across and down, each ``(B, C, H - 1, W - 1)``."""
    corner = samples[:, :, :-1, :-1]
    return samples[:, :, :-1, 1:] - corner, samples[:, :, 1:, :-1] - corner


def _together(parts: Iterable[Tensor]) -> Tensor:
    """Parts ``(B, …)`` as one ``(B, F)``; the squares of each are averaged."""
    return torch.cat([part.flatten(1) / math.sqrt(part[0].numel()) for part in parts], 1)


def gradients(samples: Tensor) -> Tensor:
    """Differences of neighbours, ``(B, F)``."""
    return _together(_differences(next(_halved("gradients", samples))))


def edges(samples: Tensor) -> Tensor:
    """Local strengths of edges, ``(B, F)``."""

    def strength(one: Tensor) -> Tensor:
        across, down = _differences(one)
        return F.avg_pool2d((across**2 + down**2 + _FAINT).sqrt(), 2)

    return _together(map(strength, _halved("edges", samples)))


def moments(samples: Tensor) -> Tensor:
    """Local standard deviations, ``(B, F)``."""
    windows = zip(*(list(_halved("moments", one, 4))[1:] for one in (samples, samples**2)), strict=True)
    return _together(((square - mean**2).clamp(min=0) + _FAINT).sqrt() for mean, square in windows)
