"""Traffic that may lead a card astray, and traffic that may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import longstride as ls
from benchmarks.recalibration import changed
from longstride.calibration.reference.solve import squared_errors
from longstride.guard.statistics import Recorder

__all__ = ["TRAFFIC", "Request", "hostile"]


@dataclass(frozen=True)
class Request:
    """A request of one sample.

    Attributes:
        denoiser: The network.
        noise: First state ``(1, *)``.
        flagged: Whether the monitor flagged it; None: no monitor looked.
    """

    denoiser: Any
    noise: Tensor
    flagged: bool | None = None


#: Called with the model, the first level, the seed and the number of the request.
Make = Callable[[ls.Model, float, range, int], Request]

#: Draws among which a client chooses.
_DRAWS = 16
#: Change of the network that the monitor sees.
_CHANGE = 0.03


def _honest(model: ls.Model, level: float, seeds: range, n: int) -> Request:
    return Request(model.denoiser(seeds), model.noise(seeds, level))


def _with(noise: Callable[[Tensor, float, int], Tensor]) -> Make:
    """Traffic whose noise is made from honest noise, the level and the number of the request."""

    def make(model: ls.Model, level: float, seeds: range, n: int) -> Request:
        return Request(model.denoiser(seeds), noise(model.noise(seeds, level), level, n))

    return make


def _constant(noise: Tensor, level: float, n: int) -> Tensor:
    """One value, of the right size."""
    return torch.full_like(noise, level * (1 if n % 2 else -1))


def _nan(noise: Tensor, level: float, n: int) -> Tensor:
    noise = noise.clone()
    noise.view(-1)[n % noise.numel()] = float("nan")
    return noise


def _smooth(noise: Tensor, level: float, n: int) -> Tensor:
    """Neighbours are averaged, and the size is right."""
    found = noise + noise.roll(1, -1) + noise.roll(1, -2) + noise.roll((1, 1), (-1, -2))
    return found * (level / found.square().mean().sqrt())


def _repeated(model: ls.Model, level: float, seeds: range, n: int) -> Request:
    return _honest(model, level, range(20_000_000, 20_000_001), n)


def _between(model: ls.Model, level: float, seeds: range, n: int) -> Request:
    """Every kind of hostile noise in turn, and an honest request after each."""
    kinds = (_with(_constant), _with(_nan), _with(lambda x, *_: 1.5 * x), _repeated, _with(_smooth))
    return _honest(model, level, seeds, n) if n % 2 else kinds[n // 2 % len(kinds)](model, level, seeds, n)


def _chosen(card: ls.Card) -> Make:
    """Of some honest draws the one on which card and base differ most."""

    def make(model: ls.Model, level: float, seeds: range, n: int) -> Request:
        many = range(30_000_000 + n * _DRAWS, 30_000_000 + (n + 1) * _DRAWS)
        denoiser, noise = model.denoiser(many), model.noise(many, level)
        apart = squared_errors(ls.sample(denoiser, noise, card.table), ls.sample(denoiser, noise, card.base_table))
        worst = int(np.argmax(apart))
        return _honest(model, level, many[worst : worst + 1], n)

    return make


def _watched(card: ls.Card) -> Make:
    """Honest requests to a network that has changed, with the flags of the card's monitor."""
    monitor, known = ls.Monitor(card), list[ls.Model]()

    def make(model: ls.Model, level: float, seeds: range, n: int) -> Request:
        if not known:
            known.append(changed(model, _CHANGE))
        asked, recorder = _honest(known[0], level, seeds, n), Recorder(card.table)
        ls.sample(asked.denoiser, asked.noise, card.table, callback=recorder)
        return Request(asked.denoiser, asked.noise, bool(monitor.see(recorder.read()).alarms[0]))

    return make


#: What is tried, in words.
TRAFFIC = {
    "honest": "honest noise",
    "constant": "constant noise of the right size",
    "nan": "NaN in one entry",
    "large": "noise 1.5 times too large",
    "small": "noise half as large",
    "repeated": "one sample repeated",
    "smooth": "smooth noise of the right size",
    "between": "all of these, every other request honest",
    "chosen": f"honest noise, the worst of {_DRAWS} draws",
    "watched": f"honest noise, network changed by {100 * _CHANGE:g} %, with the monitor's flags",
}


def hostile(name: str, card: ls.Card) -> Make:
    """The traffic of a name in :data:`TRAFFIC`."""
    made: dict[str, Callable[[], Make]] = {
        "honest": lambda: _honest,
        "constant": lambda: _with(_constant),
        "nan": lambda: _with(_nan),
        "large": lambda: _with(lambda x, *_: 1.5 * x),
        "small": lambda: _with(lambda x, *_: 0.5 * x),
        "repeated": lambda: _repeated,
        "smooth": lambda: _with(_smooth),
        "between": lambda: _between,
        "chosen": lambda: _chosen(card),
        "watched": lambda: _watched(card),
    }
    return made[name]()
