"""The networks that universal tables are fitted on and tried with: how each is loaded, and where its samples begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks.mixtures import MIXTURES, mixture
from benchmarks.networks.third_party import HOUSE_START, digits, house
from longstride.zoo.loading import load_model
from longstride.zoo.model import Model

__all__ = ["MEMBERS", "Member", "guided"]

_GALAXIES = ("hsc32", "ztf32", "hsc64", "ztf64", "lsst60", "quasar72", "roman120")
#: Folders of third-party networks, and of Fashion-MNIST.
_ZOO, _DATA = Path("zoo"), Path("data")
#: Samples of a fit, by the milliseconds of a call.
_SAMPLES = ((1.0, 32), (4.0, 24), (8.0, 16), (100.0, 10))


@dataclass(frozen=True)
class Member:
    """A network with a guidance scale.

    Attributes:
        name: Name, with the guidance scale behind an ``@``.
        kind: Kind of its data; members of a kind are alike.
        load: Loads the network.
        guidance: Guidance scale, or None.
        cost: Milliseconds of a call of one sample on one core, about; chooses how many samples it gives to a fit.
        start: First ``sigma / alpha``; None: that of its schedule.
        data_std: Standard deviation of its data, where it is known; None: that of samples without guidance.
    """

    name: str
    kind: str
    load: Callable[[], Model]
    guidance: float | None = None
    cost: float = 0.2
    start: float | None = None
    data_std: float | None = None

    @property
    def dark(self) -> bool:
        """Whether its samples are a few bright objects on a dark ground."""
        return self.kind in ("galaxies", "stars")

    @property
    def samples(self) -> int:
        """Samples that it gives to a fit."""
        return next(count for cost, count in _SAMPLES if self.cost <= cost)


@cache
def _loaded(name: str) -> Model:
    if name in MIXTURES:
        data, components, first = MIXTURES[name]
        return mixture(name, *data(), components, first)
    if name == "fashion":
        return mixture(name, *_fashion(), 80)
    if name == "digits":
        return digits(_ZOO / name)
    if name == "house":
        return house(_ZOO / name)
    return load_model(f"galaxy:{name}" if name in _GALAXIES else "models/cifar10" if name == "cifar10" else name)


def _fashion() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from training.fashion_mnist import load

    pictures, labels = load(_DATA, "train")
    small = pictures[:20000].reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return small.reshape(len(small), -1), labels[:20000].astype(np.int64)


def _member(name: str, kind: str, cost: float, guidance: float | None = None) -> Member:
    shown = name if guidance is None else f"{name}@{guidance:g}"
    return Member(shown, kind, lambda: _loaded(name), guidance, cost if guidance is None else 2 * cost)


_COSTS = {"hsc32": 2.1, "ztf32": 2.1, "hsc64": 8.0, "ztf64": 9.6, "lsst60": 7.5, "quasar72": 10.0, "roman120": 29.0}
_PLAIN = [
    *(_member(name, "galaxies", cost) for name, cost in _COSTS.items()),
    _member("garments", "garments", 7.0),
    _member("garments_flow", "garments", 3.3),
    _member("fashion", "garments", 0.6),
    _member("cifar10", "photographs", 14.0),
    _member("flower", "photographs", 0.2),
    _member("china", "photographs", 0.3),
    _member("digits", "digits", 0.8),
    _member("small_digits", "digits", 0.2),
    replace(_member("house", "tables", 0.2), start=HOUSE_START, data_std=1.0),
    _member("wine", "tables", 0.1),
    _member("cancer", "tables", 0.1),
    _member("pink", "spectra", 0.05),
    _member("brown", "spectra", 0.05),
    _member("stars", "stars", 1.5),
    _member("star", "stars", 3.5),
]
_GUIDED = [
    _member(name, kind, cost, w)
    for w in (3.0, 7.5)
    for name, kind, cost in (
        ("garments", "garments", 7.0),
        ("fashion", "garments", 0.6),
        ("digits", "digits", 0.8),
        ("small_digits", "digits", 0.2),
        ("wine", "tables", 0.1),
        ("cancer", "tables", 0.1),
    )
]
#: All members by name.
MEMBERS: dict[str, Member] = {one.name: one for one in (*_PLAIN, *_GUIDED)}


def guided(w: float | None) -> list[Member]:
    """Members at a guidance scale; None: without guidance."""
    return [one for one in MEMBERS.values() if one.guidance == w]
