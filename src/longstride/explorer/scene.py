"""What an explorer is asked to show: a scene, and the samplers that draw it."""

from __future__ import annotations

from dataclasses import dataclass

from longstride.errors import InputError
from longstride.evaluation.seeds import seed_range

__all__ = ["MOST_CALLS", "MOST_SAMPLERS", "MOST_SAMPLES", "Choice", "Classical", "FromFile", "Scene"]

#: Samplers side by side, samples of a scene, and network calls per sample, at most: more do not fit on a page.
MOST_SAMPLERS, MOST_SAMPLES, MOST_CALLS = 4, 16, 100


def _whole(what: str, value: float | None, low: int, high: int) -> None:
    """Make sure that a number of a form is whole and within its bounds.

    Raises:
        InputError: it is not.
    """
    if value is None or value != int(value) or not low <= value <= high:
        raise InputError(f"{what} must be a whole number from {low} to {high}, got {value}")


@dataclass(frozen=True)
class Scene:
    """Samples that all samplers draw, from the same noise.

    Attributes:
        model: Name of the model.
        guidance: Guidance scale, or None.
        label: Number of the class or prompt of all samples; None: the seeds go through all in turn.
        seed: Seed of the noise. Calibration with the same seed sees other noise.
        count: Number of samples.

    Raises:
        InputError: a number out of its bounds.
    """

    model: str
    guidance: float | None = None
    label: int | None = None
    seed: int = 0
    count: int = 8

    def __post_init__(self) -> None:
        _whole("samples", self.count, 1, MOST_SAMPLES)
        _whole("seed", self.seed, 0, 2**31 - 1)
        _ = self.seeds

    @property
    def seeds(self) -> range:
        """Seeds of the samples: those of ``longstride sample``."""
        return seed_range("evaluation", int(self.seed), int(self.count))


@dataclass(frozen=True)
class Classical:
    """A solver with the coefficients of its paper.

    Attributes:
        solver: Name of the solver or of its form, such as ``"unipc3"``.
        calls: Network calls per sample.
        grid: Name of the grid; ``"auto"``: the solver's, or the model's usual one.
    """

    solver: str
    calls: int = 6
    grid: str = "auto"

    def __post_init__(self) -> None:
        _whole("network calls", self.calls, 1, MOST_CALLS)


@dataclass(frozen=True)
class FromFile:
    """A card, or a setting of a book.

    Attributes:
        file: Name of the file on the shelf.
        calls: Network calls per sample, for a book; a card brings its own.
    """

    file: str
    calls: int = 6

    def __post_init__(self) -> None:
        _whole("network calls", self.calls, 1, MOST_CALLS)


#: A sampler to be shown.
Choice = Classical | FromFile
