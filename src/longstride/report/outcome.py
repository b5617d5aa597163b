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

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from longstride.errors import InputError, one_line
from longstride.files import write_atomically
from longstride.report.measured import (
    CONFIG,
    Calibrated,
    Cost,
    Counts,
    Figures,
    Machine,
    Pair,
    Pictures,
    Sampler,
    Subject,
    Worst,
)

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
#: Larger files are no outcome.
_LARGEST = 64 * 2**20


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

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG

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
