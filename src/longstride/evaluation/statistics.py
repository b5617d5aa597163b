"""What pictures and sets of pictures look like, in numbers.

Fréchet distances see only means and covariances. Statistics of single pictures show the blur and wash-out of
mean-squared fits. Neighbourhoods in feature space tell lost quality from lost variety.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError

__all__ = ["PICTURE_STATISTICS", "density_coverage", "picture_statistics", "precision_recall"]


#: Columns of :func:`picture_statistics`.
PICTURE_STATISTICS = ("brightness", "contrast", "saturation", "sharpness", "clipped", "noise")
#: How many distances the neighbourhood measures hold at once.
BLOCK = 4_000_000


def picture_statistics(images: Tensor) -> Array:
    r"""Statistics of each picture, which is not clamped, so that overshoot shows.

    - brightness: the mean of all values;
    - contrast: root of the variance over pixels, averaged over channels;
    - saturation: mean over pixels of the largest minus the smallest channel; 0 unless there are three;
    - sharpness: mean of :math:`(\partial_x v)^2` plus mean of :math:`(\partial_y v)^2`, differences of neighbours;
    - clipped: share of values at or beyond ±1;
    - noise: mean of :math:`(\Delta v)^2`, the Laplacian of each pixel and its four neighbours, inside the border.

    Blur lowers sharpness and noise, wash-out lowers contrast and saturation.

    Args:
        images: Shape ``(B, C, H, W)``, in [-1, 1] if they are pictures; H and W at least 3.

    Returns:
        Shape ``(B, 6)``, columns as in :data:`PICTURE_STATISTICS`.

    Raises:
        InputError: the shape differs.
    """
    if images.ndim != 4 or min(images.shape[1:]) < 1 or min(images.shape[2:]) < 3:
        raise InputError(f"expected pictures (B, C, H, W) of 3 x 3 pixels or more, got {tuple(images.shape)}")
    x = images.detach().to(torch.promote_types(images.dtype, torch.float32))  # on their device: they may be large
    colour = x.amax(1) - x.amin(1) if x.shape[1] == 3 else torch.zeros_like(x[:, 0])
    across, down = x.diff(dim=3).square(), x.diff(dim=2).square()
    inside = x[..., 1:-1, 1:-1]
    laplacian = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:] - 4 * inside
    columns = (
        x.mean((1, 2, 3)),
        (x - x.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt(),
        colour.mean((1, 2)),
        across.mean((1, 2, 3)) + down.mean((1, 2, 3)),
        (x.abs() >= 1).to(x.dtype).mean((1, 2, 3)),
        laplacian.square().mean((1, 2, 3)),
    )
    statistics: Array = torch.stack(columns, 1).cpu().double().numpy()
    return statistics


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 5) -> tuple[float, float]:
    """Density (fidelity: 1 for equal sets, may exceed 1) and coverage (variety: in 0..1) of a set.

    Around every real point lies an open ball that reaches to the k-th nearest other real point. Density is the mean
    number of balls around a fake point, over k. Coverage is the share of balls with a fake point inside.

    Args:
        real: Coordinates ``(N, d)``, N > k.
        fake: Coordinates ``(M, d)``.
        k: Neighbours.

    Raises:
        InputError: the shapes differ, there are no fake points, or at most k real points.

    References:
        Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2020, Sec. 3.
        https://arxiv.org/abs/2002.09797
    """
    known, other = _points(real, fake)
    radii = _radii(known, k)
    inside = covered = 0
    for rows, distances in _distances(known, other):
        held = distances < radii[rows, None]
        inside += int(held.sum())
        covered += int(held.any(1).sum())
    return inside / (k * len(other)), covered / len(known)


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 5) -> tuple[float, float]:
    """Improved precision (share of fake points among the real ones) and recall (of real points among the fake ones).

    Around every point of a set lies a closed ball that reaches to the k-th nearest other point of the set. A point is
    among the set if it lies in such a ball.

    Args:
        real: Coordinates ``(N, d)``, N > k.
        fake: Coordinates ``(M, d)``, M > k.
        k: Neighbours.

    Raises:
        InputError: the shapes differ, or a set has at most k points.

    References:
        Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, 2019, Eqs. (1)
        and (2). https://arxiv.org/abs/1904.06991
    """
    known, other = _points(real, fake)
    real_radii, fake_radii = _radii(known, k), _radii(other, k)
    among_real = torch.zeros(len(other), dtype=torch.bool)
    recalled = 0
    for rows, distances in _distances(known, other):
        among_real |= (distances <= real_radii[rows, None]).any(0)
        recalled += int((distances <= fake_radii).any(1).sum())
    return int(among_real.sum()) / len(other), recalled / len(known)


def _points(*sets: ArrayLike) -> list[Tensor]:
    points = [torch.from_numpy(np.asarray(each, dtype=np.float64)) for each in sets]
    if any(each.ndim != 2 or len(each) == 0 for each in points) or len({each.shape[1] for each in points}) != 1:
        raise InputError(f"expected two sets of coordinates (N, d), got {[tuple(each.shape) for each in points]}")
    return points


def _distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of Euclidean distances, without products of points: the distance of equal points is exactly 0."""
    height = max(1, BLOCK // len(columns))
    for first in range(0, len(rows), height):
        block = slice(first, first + height)
        yield block, torch.cdist(rows[block], columns, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance ``(N,)`` from each point to its k-th nearest other one."""
    if not 1 <= k < len(points):
        raise InputError(f"{k} nearest neighbours need more than {k} points, got {len(points)}")
    # A point is its own nearest neighbour.
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for _, distances in _distances(points, points)])
