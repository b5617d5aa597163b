r"""Exact denoisers: mixtures of Gaussians on data that packages ship, and Gaussians with the spectrum of pictures.

With weights :math:`\pi_i`, means :math:`\mu_i` and covariances :math:`V_i \Lambda_i V_i^T`,

.. math:: D(x, \sigma) = \sum_i r_i \Big(\mu_i + V_i \frac{\Lambda_i}{\Lambda_i + \sigma^2} V_i^T (x - \mu_i)\Big),
   \qquad r_i \propto \pi_i\, \mathcal N(x;\, \mu_i,\, V_i \Lambda_i V_i^T + \sigma^2).

A mixture with classes has weights of each class; its label of no class has the weights of all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longstride.schedule import Schedule
from longstride.zoo.conditioning import ClassLabels, Unconditional
from longstride.zoo.model import Model

__all__ = ["FIRST", "MIXTURES", "mixture"]

Array = NDArray[np.float64]
#: First level of EDM's schedule.
FIRST = 80.0
#: Least variance of a component along any direction, as a part of the data's.
_FLOOR = 1e-3


class _Mixture(nn.Module):
    """A mixture; ``prior`` holds the logarithms of the weights of every class, and of no class in its last row."""

    means: Tensor
    values: Tensor
    vectors: Tensor
    prior: Tensor

    def __init__(self, means: Array, covariances: Array, prior: Array) -> None:
        super().__init__()
        values, vectors = np.linalg.eigh(covariances)
        self.anything = nn.Parameter(torch.zeros(1), requires_grad=False)
        for name, array in {"means": means, "values": values, "vectors": vectors, "prior": prior}.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32))

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        noisy = self.values + sigma[0] ** 2
        along = torch.einsum("bmd,mde->bme", x[:, None] - self.means, self.vectors)
        log = -0.5 * (along.square() / noisy + noisy.log()).sum(2)
        prior = self.prior[-1] if class_labels is None else self.prior[class_labels]
        parts = torch.softmax(log + prior, dim=1)
        inside = torch.einsum("bme,mde,bm->bd", along * (self.values / noisy), self.vectors, parts)
        return parts @ self.means + inside


def mixture(
    name: str, data: Array, labels: NDArray[np.int64] | None, components: int, first: float = FIRST, seed: int = 0
) -> Model:
    """A mixture on rows of data, standardised to mean 0 and standard deviation 1/2 over all entries.

    k-means makes the components; each has the covariance of its rows, shrunk towards that of all.

    Args:
        name: Name of the model.
        data: Shape ``(N, d)``.
        labels: Classes ``(N,)``, or None.
        components: Number of components.
        first: First level of its schedule.
        seed: Seed of k-means.
    """
    from sklearn.cluster import KMeans
    from sklearn.covariance import ledoit_wolf

    rows = (data - data.mean()) / (2 * data.std())
    found = KMeans(components, n_init=1, random_state=seed).fit(rows)
    within = ledoit_wolf(rows - found.cluster_centers_[found.labels_])[0]
    means, covariances, counts = [], [], []
    classes = 0 if labels is None else int(labels.max()) + 1
    for k in range(components):
        own = found.labels_ == k
        shrink = 30 / (30 + own.sum())
        centred = rows[own] - rows[own].mean(0)
        covariances.append((1 - shrink) * centred.T @ centred / own.sum() + shrink * within)
        means.append(rows[own].mean(0))
        counts.append([own.sum()] if labels is None else [*np.bincount(labels[own], minlength=classes), own.sum()])
    floor = _FLOOR * 0.25 * np.eye(rows.shape[1])
    prior = np.log(np.maximum(np.array(counts, np.float64).T, 1e-6))
    network = _Mixture(np.array(means), np.array(covariances) + floor, prior)
    conditioning = Unconditional() if labels is None else ClassLabels(classes, classes)
    schedule = Schedule.edm(sigma_min=0.002, sigma_max=first)
    return Model(name, network, schedule, "data", (rows.shape[1],), conditioning)


def _digits() -> tuple[Array, NDArray[np.int64] | None]:
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    return data.astype(np.float64), labels


def _patches(picture: str, side: int, colours: bool) -> tuple[Array, None]:
    from sklearn.datasets import load_sample_image

    image = load_sample_image(picture).astype(np.float64) / 255
    image = image if colours else image.mean(2, keepdims=True)
    rng = np.random.default_rng(0)
    tops, lefts = (rng.integers(0, size - 2 * side, 6000) for size in image.shape[:2])
    found = [image[t : t + 2 * side : 2, left : left + 2 * side : 2] for t, left in zip(tops, lefts, strict=True)]
    return np.stack(found).reshape(len(found), -1), None


def _table(name: str) -> tuple[Array, NDArray[np.int64] | None]:
    from sklearn import datasets
    from sklearn.preprocessing import QuantileTransformer

    data, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    normal = QuantileTransformer(output_distribution="normal", n_quantiles=100, random_state=0)
    return normal.fit_transform(data), labels


def _spectrum(exponent: float, side: int = 16) -> tuple[Array, None]:
    """Gaussian pictures whose power falls as ``frequency ** -exponent``."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    f[0, 0] = 0.5 / side
    white = rng.standard_normal((4000, side, side))
    return np.fft.ifft2(np.fft.fft2(white) * f ** (-exponent / 2)).real.reshape(len(white), -1), None


def _stars(side: int, most: int) -> tuple[Array, None]:
    """A few bright discs on a dark, slightly noisy ground, of brightness that is log-normal, about the middle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    pictures = 0.01 * rng.standard_normal((6000, side, side))
    for picture in pictures:
        for _ in range(rng.integers(1, most + 1)):
            (top, left), width = rng.normal(0, side / 8, 2), rng.uniform(0.6, 1.2)
            distance = (y - top) ** 2 + (x - left) ** 2
            picture += np.exp(rng.normal(0, 0.7)) * np.exp(-distance / (2 * width**2))
    return pictures.reshape(len(pictures), -1), None


#: Exact denoisers by name: their data, the number of components, and their first level, which is higher for dark
#: pictures: the standard deviation says little of them.
MIXTURES: dict[str, tuple[Callable[[], tuple[Array, NDArray[np.int64] | None]], int, float]] = {
    "small_digits": (_digits, 60, FIRST),
    "flower": (lambda: _patches("flower.jpg", 8, False), 60, FIRST),
    "china": (lambda: _patches("china.jpg", 7, True), 30, FIRST),
    "wine": (lambda: _table("wine"), 6, FIRST),
    "cancer": (lambda: _table("breast_cancer"), 12, FIRST),
    "pink": (lambda: _spectrum(1.0, 8), 1, FIRST),
    "brown": (lambda: _spectrum(2.0, 12), 1, FIRST),
    "stars": (lambda: _stars(12, 3), 80, 200.0),
    "star": (lambda: _stars(16, 1), 80, 200.0),
}
