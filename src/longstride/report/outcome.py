"""What a proof of concept measured: numbers alone, as one JSON file.

An outcome holds what was measured, and nothing that follows from it: the error of every sample and not their mean,
every timed round and not the seconds per picture. All that a page shows is computed from an outcome, so anyone who has
the file can compute it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from longstride.card_parts import How
from longstride.errors import InputError, one_line
from longstride.evaluation.bootstrap import Interval
from longstride.files import write_atomically

__all__ = [
    "OUTCOME_VERSION",
    "Calibrated",
    "Cost",
    "Counts",
    "Figures",
    "Machine",
    "Outcome",
    "Pair",
    "Pictures",
    "Sampler",
    "Subject",
    "Worst",
    "figures_of",
    "load_outcome",
    "save_outcome",
]

OUTCOME_VERSION = 1
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
#: Larger files are no outcome.
_LARGEST = 64 * 2**20


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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

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

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    calls: int
    flips: tuple[Pair, ...]
    blind: tuple[Pair, ...]
    worst: tuple[Worst, ...]
    width: int


@dataclass(frozen=True)
class Outcome:
    """Everything that was measured.

    Attributes:
        subject: The model.
        machine: Where it was measured.
        date: Day of the measurement, ``YYYY-MM-DD``.
        command: The command that measures it again.
        quick: Whether it was measured on few samples.
        seed: Seed of all noise.
        today: Name and number of calls of the sampler that is in use now.
        asked: Numbers of calls that calibration was asked for.
        counts: On how much it was measured.
        samplers: All samplers, today's at today's number of calls included.
        calibrated: What calibration says of itself, by number of calls.
        cost: What calibration cost.
        figures: What the user says of money.
        failed: Why nothing more was measured, or empty: ``"non-finite"`` or ``"unfinished"``.
        detail: The error in words, or what is missing; empty if nothing failed.
        pictures: What the reader looks at, or None.
        format: Always ``"longstride-poc"``.
        version: Version of the format.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    subject: Subject
    machine: Machine
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    command: str
    quick: bool
    seed: int
    today: tuple[str, int]
    asked: tuple[int, ...]
    counts: Counts
    samplers: tuple[Sampler, ...]
    calibrated: tuple[Calibrated, ...]
    cost: Cost
    figures: Figures = field(default_factory=Figures)
    failed: Literal["", "non-finite", "unfinished"] = ""
    detail: str = ""
    pictures: Pictures | None = None
    format: Literal["longstride-poc"] = "longstride-poc"
    version: int = OUTCOME_VERSION

    def sampler(self, name: str, calls: int) -> Sampler | None:
        """The sampler of that name at a number of calls, or None."""
        return next((one for one in self.samplers if (one.name, one.calls) == (name, calls)), None)

    @property
    def reference(self) -> Sampler | None:
        """Today's sampler at today's number of calls: what all others are compared with. None if it has no errors."""
        found = self.sampler(*self.today)
        return found if found is not None and found.errors else None

    def with_figures(self, **given: float | str | None) -> Outcome:
        """The same outcome with other figures of money; None leaves a figure as it is.

        Raises:
            InputError: a figure cannot be used.
        """
        return replace(self, figures=figures_of(self.figures, **given))

    def dumps(self) -> str:
        """JSON text."""
        return json.dumps(_OUTCOME.dump_python(self, mode="json"), allow_nan=False, ensure_ascii=False) + "\n"

    def without_pictures(self) -> Outcome:
        """The numbers alone."""
        return replace(self, pictures=None)


_OUTCOME = TypeAdapter(Outcome)
_FIGURES = TypeAdapter(Figures)


def figures_of(before: Figures, **given: float | str | None) -> Figures:
    """Figures of money with some of them changed; None leaves a figure as it is.

    Raises:
        InputError: a figure cannot be used.
    """
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return _FIGURES.validate_python({**vars(before), **values})
    except ValidationError as error:
        raise InputError(f"the figures of money cannot be used: {_first(error)}") from None


def save_outcome(outcome: Outcome, path: Path) -> None:
    """Write an outcome.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, outcome.dumps().encode())


def load_outcome(path: Path) -> Outcome:
    """Read what :func:`save_outcome` wrote.

    Raises:
        InputError: the file is missing, damaged, too large, of a newer version, or no outcome; the message says which.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is larger than {_LARGEST // 2**20} MiB: it is no outcome")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read outcome {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not complete JSON: run longstride poc again") from None
    if not isinstance(raw, dict) or raw.get("format") != "longstride-poc":
        raise InputError(f'{path} holds no outcome: expected JSON with "format": "longstride-poc"')
    if raw.get("version") != OUTCOME_VERSION:
        version = one_line(str(raw.get("version")))
        raise InputError(f"{path} has an outcome of version {version}, this longstride reads {OUTCOME_VERSION}")
    try:
        return _OUTCOME.validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {_first(error)}; run longstride poc again") from None


def _first(error: ValidationError) -> str:
    """The first fault, with its place."""
    one = error.errors()[0]
    return one_line(f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}")
