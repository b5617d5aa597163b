"""Pictures of a scene: ends, states and clean predictions as ``data:`` addresses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from longstride.explorer.drawing import Drawn
from longstride.report.pictures import encoded
from longstride.zoo import Model

__all__ = ["Film", "film_of", "pictures_of"]


@dataclass(frozen=True)
class Film:
    """The run of one sample, call by call, and its end.

    Attributes:
        predictions: What the network believed to be the clean picture, at every call; then the end.
        states: What the network was given, at every call, on the scale of clean pictures; then the end.
        ratios: ``sigma / alpha`` at every call.
        flagged: Whether the guard had the sample made again, so that its end is not that of these calls.
    """

    predictions: tuple[str, ...]
    states: tuple[str, ...]
    ratios: tuple[float, ...]
    flagged: bool

    @property
    def calls(self) -> int:
        """Number of network calls."""
        return len(self.ratios)


def pictures_of(model: Model, samples: Tensor) -> list[str]:
    """A picture for every sample ``(B, *)``.

    Raises:
        InputError: the samples are no pictures.
    """
    return encoded(model.pictures(samples.to(model.device)))


def film_of(model: Model, drawn: Drawn, number: int) -> Film:
    """The run of one sample.

    States are divided by ``hypot(alpha, sigma)``: noise then keeps the deviation 1, and a clean picture is itself.

    Args:
        model: The model of the scene.
        drawn: What a sampler drew.
        number: Number of the sample.
    """
    end = drawn.samples[number]
    predictions = torch.stack([*(call.prediction[number] for call in drawn.calls), end])
    states = torch.stack([*(call.state[number] / math.hypot(call.alpha, call.sigma) for call in drawn.calls), end])
    ratios = tuple(call.sigma / call.alpha if call.alpha else math.inf for call in drawn.calls)
    return Film(
        tuple(pictures_of(model, predictions)),
        tuple(pictures_of(model, states)),
        ratios,
        drawn.flagged[number],
    )
