"""The parts of an outcome: what was measured of a model, its samplers, its calibration and its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from longstride.card_parts import How
from longstride.evaluation.bootstrap import Interval

__all__ = [
    "CONFIG",
    "Calibrated",
    "Cost",
    "Counts",
    "Figures",
    "Image",
    "Machine",
    "Natural",
    "Pair",
    "Pictures",
    "Positive",
    "Sampler",
    "Subject",
    "Worst",
]

#: Parts are read strictly.
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


def _is_picture(text: str) -> str:
    """``text`` itself, if a page may show it as it is: an outcome may come from anyone."""
    kind, _, content = text.partition(";base64,")
    if kind not in ("data:image/png", "data:image/webp") or not content.isascii() or set(content) & set("\"'<> \n"):
        raise ValueError("a picture must be PNG or WebP in base64")
    return text


#: A picture as ``data:`` address.
Image = Annotated[str, AfterValidator(_is_picture)]
Positive = Annotated[float, Field(gt=0)]
Natural = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Subject:
    """The model, and how it is asked.

    Attributes:
        model: Its name.
        fingerprint: Digest of its weights.
        shape: Shape of one sample.
        classes: Number of classes that it is conditioned on, or 0.
        guidance: Guidance scale, or None. A guided network call costs two forward passes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    model: str
    fingerprint: str
    shape: tuple[int, ...]
    classes: int = 0
    guidance: float | None = None


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        device: PyTorch's name of the device.
        processor: Name of the processor or the accelerator.
        threads: Threads of PyTorch.
        python: Version of Python.
        torch: Version of PyTorch.
        longstride: Version of this package.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    device: str
    processor: str
    threads: int
    python: str
    torch: str
    longstride: str


@dataclass(frozen=True)
class Counts:
    """On how much it was measured.

    Attributes:
        fitted: Samples that calibration fits.
        held_out: Samples that its gate looks at.
        evaluated: Samples that all samplers draw, none of which calibration saw.
        batch: Samples per network call while measuring and timing.
        reference_calls: Network calls of the converged solution.
        reference_error: Its own error, as it estimates it; None if unknown.
        dimensions: Dimensions of the Fréchet distance; 0 if there is none.
        features: Network whose features it compares; empty if there is none.
        rounds: Timed rounds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    fitted: int
    held_out: int
    evaluated: int
    batch: int
    reference_calls: int
    reference_error: float | None
    dimensions: int
    features: str
    rounds: int


@dataclass(frozen=True)
class Sampler:
    """One sampler at one number of network calls.

    Attributes:
        name: Name in the data.
        label: Name for people.
        kind: ``"today"``: the sampler that is in use now, at any number of calls; ``"classical"``: another sampler from
            theory; ``"calibrated"``: a table that calibration made, or its base if the gate kept the base.
        calls: Network calls per picture; a guided pair counts once.
        errors: Root-mean-square distance of every sample to the converged solution from the same noise, in the order
            of the seeds.
        distance: Fréchet distance to the converged samples.
        distance_change: The same, less the distance of today's sampler at today's number of calls.
        seconds: Seconds per picture in every timed round; empty if it was not timed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    name: str
    label: str
    kind: Literal["today", "classical", "calibrated"]
    calls: Natural
    errors: tuple[Annotated[float, Field(ge=0)], ...]
    distance: Interval | None = None
    distance_change: Interval | None = None
    seconds: tuple[Positive, ...] = ()


@dataclass(frozen=True)
class Calibrated:
    """What calibration says of itself at one number of calls.

    Attributes:
        calls: Network calls per picture.
        how: Its origin, as a book tells it; ``"base"``: the gate kept the base.
        base: The classical table that it is compared with, for people.
        reason: Why the base is kept; empty if it is not.
        held_out: Error on the held-out samples, of the base and of the calibrated table.
        gain: How much the base and the calibrated table amplify errors of the network; None if it was not measured.
        needs_guard: Whether it is better than its base only with a guard.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    calls: Natural
    how: How
    base: str
    reason: str
    held_out: tuple[float, float]
    gain: tuple[float, float] | None = None
    needs_guard: bool = False


@dataclass(frozen=True)
class Cost:
    """What calibration cost, once.

    Attributes:
        passes: Forward passes of the network on one sample.
        seconds: Seconds that it ran, over all starts.
        starts: How often the command was started until it was finished.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    passes: int
    seconds: float
    starts: Natural = 1


@dataclass(frozen=True)
class Figures:
    """What the user says of money; nothing is assumed in its place.

    Attributes:
        price_per_hour: Price of an hour of this device, or None.
        images_per_month: Pictures per month, or None.
        currency: Code of ISO 4217.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    price_per_hour: Positive | None = None
    images_per_month: Positive | None = None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "EUR"


@dataclass(frozen=True)
class Pair:
    """Pictures from the same noise; None: not drawn.

    Attributes:
        seed: Seed of the noise.
        today: Today's sampler at today's number of calls.
        calibrated: The calibrated sampler at fewer calls.
        fewer: Today's sampler at as few calls.
        converged: The converged solution.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    seed: int
    today: Image
    calibrated: Image
    fewer: Image | None = None
    converged: Image | None = None


@dataclass(frozen=True)
class Worst:
    """A sample that got worse.

    Attributes:
        number: Its place among the evaluated samples.
        pair: Its pictures.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    number: int
    pair: Pair


@dataclass(frozen=True)
class Pictures:
    """What the reader looks at.

    Attributes:
        calls: Network calls of the calibrated sampler in all pictures.
        flips: Pictures to flip between.
        blind: Pairs for the blind choice.
        worst: The samples whose error grew most, compared with today's.
        width: Width of a picture in pixels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

    calls: int
    flips: tuple[Pair, ...]
    blind: tuple[Pair, ...]
    worst: tuple[Worst, ...]
    width: int
