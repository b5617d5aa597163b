r"""Fréchet distance between sets of pictures, from sums that can be streamed, merged and resampled.

With few samples a Fréchet distance in 1280 dimensions is mostly bias. So features are projected to leading principal
components of real pictures. Every figure stands beside its floor: the distance of as many other real pictures.
A set of N coordinates :math:`x_i` enters only through :math:`(N, \sum x_i, \sum x_i x_i^T)`, its :class:`Moments`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError

__all__ = ["FeatureSpace", "Moments", "frechet_distance"]


class Moments:
    """Count, sum and sum of outer products of coordinates, in float64.

    All three are sums over samples: the moments of a union are the sum of the moments of its parts, in any order.

    Args:
        dimensions: Coordinates of one sample, d.

    Attributes:
        count: Samples so far.
        total: Sum of the samples, shape ``(d,)``.
        outer: Sum of their outer products, shape ``(d, d)``.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.total: Array = np.zeros(dimensions)
        self.outer: Array = np.zeros((dimensions, dimensions))

    @classmethod
    def of(cls, coordinates: NDArray[np.floating]) -> Moments:
        """The moments of one set of coordinates ``(N, d)``."""
        moments = cls(coordinates.shape[-1])
        moments.add(coordinates)
        return moments

    def add(self, coordinates: NDArray[np.floating]) -> None:
        """Add samples.

        Args:
            coordinates: Shape ``(N, d)``; N may be 0.

        Raises:
            InputError: the shape differs, or a value is not finite.
        """
        if coordinates.ndim != 2 or coordinates.shape[1] != self.dimensions:
            raise InputError(f"expected coordinates (N, {self.dimensions}), got {coordinates.shape}")
        if not np.isfinite(coordinates).all():
            raise InputError("coordinates hold NaN or infinity: a set with such pictures has no moments")
        x = coordinates.astype(np.float64)
        self.count += len(x)
        self.total += x.sum(0)
        self.outer += x.T @ x

    def __add__(self, other: Moments) -> Moments:
        return Moments.unpack(self.pack() + other.pack(), self.dimensions)

    @property
    def dimensions(self) -> int:
        """Coordinates of one sample, d."""
        return len(self.total)

    @property
    def mean(self) -> Array:
        """The mean, shape ``(d,)``; needs a sample."""
        return self.total / self.count

    @property
    def covariance(self) -> Array:
        """The unbiased covariance, shape ``(d, d)``; needs two samples."""
        covariance: Array = (self.outer - np.outer(self.total, self.mean)) / (self.count - 1)
        return covariance

    def leading(self, dimensions: int) -> Moments:
        """Moments of the first ``dimensions`` coordinates alone."""
        part = Moments(dimensions)
        part.count, part.total = self.count, self.total[:dimensions]
        part.outer = self.outer[:dimensions, :dimensions]
        return part

    def pack(self) -> Array:
        """One array ``(1 + d + d²,)``, for files and for sums over sets: to add two is to merge them."""
        return np.concatenate([[self.count], self.total, self.outer.ravel()])

    @classmethod
    def unpack(cls, array: NDArray[np.floating], dimensions: int) -> Moments:
        """The inverse of :meth:`pack`.

        Raises:
            InputError: the length differs, or the first number is no number of samples.
        """
        if array.shape != (1 + dimensions + dimensions**2,):
            raise InputError(
                f"moments in {dimensions} dimensions are {1 + dimensions + dimensions**2} numbers, got "
                f"shape {array.shape}"
            )
        if not np.isfinite(array).all() or array[0] < 0 or array[0] != round(float(array[0])):
            raise InputError(f"moments must be finite and begin with a number of samples, got {array[0]}")
        moments = cls(dimensions)
        moments.count = int(array[0])
        moments.total = array[1 : 1 + dimensions].astype(np.float64)
        moments.outer = array[1 + dimensions :].astype(np.float64).reshape(dimensions, dimensions)
        return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    r"""Squared Fréchet distance between the Gaussians with two sets' means and covariances.

    .. math:: \|m_a - m_b\|^2 + \operatorname{tr}(A + B) - 2 \operatorname{tr} (A^{1/2} B A^{1/2})^{1/2}

    The last trace is the sum of the singular values of :math:`B^{1/2} A^{1/2}`. No product of covariances is formed:
    a set that does not span the space is at distance 0 from itself, to rounding.

    Raises:
        InputError: the dimensions differ, or a set has fewer than two samples.

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, Eq. (6). https://arxiv.org/abs/1706.08500
    """
    if a.dimensions != b.dimensions:
        raise InputError(f"moments in {a.dimensions} and {b.dimensions} dimensions cannot be compared")
    if min(a.count, b.count) < 2:
        raise InputError(f"a Fréchet distance needs two samples on each side, got {a.count} and {b.count}")
    cross = np.linalg.svd(_root(b.covariance).T @ _root(a.covariance), compute_uv=False).sum()
    gap = a.mean - b.mean
    distance = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(float(distance), 0.0)


def _root(covariance: Array) -> Array:
    """R with R Rᵀ = covariance; eigenvalues below rounding count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    rounding = len(values) * np.finfo(np.float64).eps * values[-1]
    root: Array = vectors * np.sqrt(np.where(values > rounding, values, 0))
    return root


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """The leading principal components of reference features, in which sets are compared.

    Attributes:
        mean: Mean of the reference features, shape ``(d,)``.
        axes: Orthonormal columns by falling variance, shape ``(d, dimensions)``.
        features: Name of the extractor in ``FEATURES``.
    """

    mean: Array
    axes: Array
    features: str

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.axes.ndim != 2 or len(self.mean) != len(self.axes):
            raise InputError(f"a mean of shape {self.mean.shape} has no axes of shape {self.axes.shape}")

    @property
    def dimensions(self) -> int:
        """Number of coordinates of one picture."""
        return int(self.axes.shape[1])

    @classmethod
    def fit(cls, features: Tensor, dimensions: int, name: str) -> FeatureSpace:
        """The space of a reference set.

        Args:
            features: Shape ``(N, d)``.
            dimensions: Components to keep; at most ``min(N - 1, d)``.
            name: Name of the extractor that made the features.

        Raises:
            InputError: the samples do not span so many components.
        """
        count, width = features.shape
        if not 1 <= dimensions <= min(count - 1, width):
            raise InputError(f"{count} samples do not span {dimensions} dimensions: draw more, or keep fewer")
        known = features.cpu().double()
        mean = known.mean(0)
        if count > width:  # the eigenvectors of the covariance, many times faster
            axes = torch.linalg.eigh((known - mean).T @ (known - mean))[1].flip(1)
        else:
            axes = torch.linalg.svd(known - mean, full_matrices=False)[2].T
        return cls(mean.numpy(), axes[:, :dimensions].contiguous().numpy(), name)

    def project(self, features: Tensor) -> Array:
        """Coordinates ``(N, dimensions)`` of features ``(N, d)``.

        Raises:
            InputError: the width of the features differs.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise InputError(f"expected {self.features} features (N, {len(self.mean)}), got {tuple(features.shape)}")
        coordinates: Array = (features.cpu().double().numpy() - self.mean) @ self.axes
        return coordinates
