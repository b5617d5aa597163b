"""What may go wrong in a service that samples with a card, as networks, noise and conditions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import longstride as ls
from benchmarks.networks.third_party import digits
from benchmarks.recalibration import changed
from longstride.errors import InputError
from longstride.sampler import DenoiserLike

__all__ = ["CASES", "Case", "Faulty", "faults"]

#: Of levels that the network is told; of changes of all weights.
_OFF, _CHANGES = (0.05, 0.1, 0.2, 0.5), (0.001, 0.003, 0.01, 0.03, 0.1)
#: Largest level of a flow at which a network of another process can be called.
_MOST = 0.99


@dataclass(frozen=True)
class Case:
    """A network of the benchmark.

    Attributes:
        source: Name of the model; ``"digits"``: that of the folder ``--zoo``.
        guidance: Guidance scale.
        nfe: Network calls.
        fitted: Fitted samples of the calibration.
        held_out: Held-out samples.
        clean: Fresh samples without a fault.
        samples: Fresh samples of every fault.
        settings: Settings of the calibration that are not its defaults.
    """

    source: str
    guidance: float | None
    nfe: int
    fitted: int
    held_out: int
    clean: int
    samples: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def load(self, zoo: Path | None) -> ls.Model:
        """The model.

        Raises:
            InputError: it is not there.
        """
        if self.source != "digits":
            return ls.load_model(self.source)
        if zoo is None:
            raise InputError("the network digits is in no package: --zoo names the folder that holds digits/")
        return digits(zoo / "digits")


#: Universal tables of the package saw these networks.
_UNSEEN = {"universal": False}
#: Settings of a calibration whose table is watched, and not judged.
_SHORT = {"iterations": 1, "scouts": 1, "reference_steps": 32, **_UNSEEN}
CASES = {
    "hsc32": Case("galaxy:hsc32", None, 5, 128, 48, 2048, 512, _UNSEEN),
    "digits": Case("digits", 3.0, 6, 64, 32, 2048, 512, _UNSEEN),
    "garments_flow": Case("garments_flow", None, 6, 48, 32, 512, 64, _SHORT),
    "garments_guided": Case("garments", 3.0, 4, 16, 16, 256, 32, {"method": "iia", "reference_steps": 16}),
}

#: A run of some seeds under a fault: the network, and the size of the noise.
Faulty = Callable[[range], tuple[DenoiserLike, float]]


def faults(case: Case, model: ls.Model) -> dict[str, Faulty]:
    """Every fault of a network, by its name."""
    scale = case.guidance
    found: dict[str, Faulty] = {}
    if model.num_classes:
        one = 1.0 if scale is None else scale
        found["guidance x2"] = lambda seeds: (model.denoiser(seeds, 2 * one), 1.0)
        found["guidance x0.5"] = lambda seeds: (model.denoiser(seeds, one / 2), 1.0)
    for off in (sign * size for size in _OFF for sign in (1, -1)):
        moved = replace(model, schedule=_told(model.schedule, off))
        found[f"levels {100 * off:+.0f} %"] = partial(_plain, moved, scale)
    found["other network"] = lambda seeds: (_other(case, model, seeds), 1.0)
    for size in _CHANGES:
        found[f"weights {100 * size:g} %"] = partial(_of_changed, cache(partial(changed, model, size)), scale)
    for label, classes in (("one class", [0]), ("half of the classes", list(range(5)))):
        if model.num_classes:
            found[label] = partial(_of_classes, model, scale, classes)
    for factor in (0.9, 1.1):
        found[f"noise x{factor:g}"] = partial(_louder, model, scale, factor)
    for k in (1, case.nfe - 1):
        found[f"call {k + 1} skipped"] = partial(_skipping, model, scale, k)
    found["float16 overflow"] = lambda seeds: (_Overflowing(model.denoiser(seeds, scale), case.nfe - 1), 1.0)
    return found


def _plain(model: ls.Model, scale: float | None, seeds: range) -> tuple[DenoiserLike, float]:
    return model.denoiser(seeds, scale), 1.0


def _louder(model: ls.Model, scale: float | None, factor: float, seeds: range) -> tuple[DenoiserLike, float]:
    return model.denoiser(seeds, scale), factor


def _skipping(model: ls.Model, scale: float | None, k: int, seeds: range) -> tuple[DenoiserLike, float]:
    return _Skipping(model.denoiser(seeds, scale), k), 1.0


def _of_changed(make: Callable[[], ls.Model], scale: float | None, seeds: range) -> tuple[DenoiserLike, float]:
    return _plain(make(), scale, seeds)


def _of_classes(model: ls.Model, scale: float | None, classes: list[int], seeds: range) -> tuple[DenoiserLike, float]:
    labels = torch.tensor([classes[seed % len(classes)] for seed in seeds])
    return model.denoiser(seeds, scale, labels=labels), 1.0


def _told(schedule: ls.Schedule, off: float) -> Any:
    """A schedule whose network is told times of levels that are off by a share."""
    other = copy.copy(schedule)
    ratio = schedule.frame_ratio
    object.__setattr__(other, "time", lambda sigma: schedule.time_of_ratio((1 + off) * ratio(sigma)))
    return other


class _Counted:
    """A network that knows the number of its call, from 0."""

    def __init__(self, denoiser: DenoiserLike) -> None:
        self.denoiser, self.k = denoiser, -1

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        self.k += 1
        return self.denoiser(x, sigma)


class _Skipping(_Counted):
    """A network that returns its last output again in place of call ``skipped``."""

    def __init__(self, denoiser: DenoiserLike, skipped: int) -> None:
        super().__init__(denoiser)
        self.skipped, self.last = skipped, torch.empty(0)

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        if self.k + 1 == self.skipped:
            self.k += 1
        else:
            self.last = super().__call__(x, sigma)
        return self.last


class _Overflowing(_Counted):
    """A network one of whose calls passes through numbers too large for float16."""

    def __init__(self, denoiser: DenoiserLike, at: int) -> None:
        super().__init__(denoiser)
        self.bad = at

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        out = super().__call__(x, sigma)
        return (out * 1e5).half().to(out) / 1e5 if self.k == self.bad else out


def _other(case: Case, model: ls.Model, seeds: range) -> DenoiserLike:
    """Another network of the same kind of pictures, in the frame of the case's network."""
    if case.source.startswith("galaxy:"):
        return _loaded("galaxy:ztf32").denoiser(seeds)
    if case.source == "garments":
        flow = _loaded("garments_flow").denoiser(seeds, case.guidance)
        return lambda x, ratio: flow(x / (1 + ratio), ratio / (1 + ratio))
    garments = _loaded("garments").denoiser(seeds, case.guidance)
    if case.source == "digits":
        return lambda x, ratio: (garments(2 * x - 1, 2 * ratio) + 1) / 2

    def reframed(x: Tensor, sigma: float, /) -> Tensor:
        near = min(sigma, _MOST)
        return garments(x * (near / sigma / (1 - near)), near / (1 - near))

    return reframed


@cache
def _loaded(name: str) -> ls.Model:
    return ls.load_model(name)
