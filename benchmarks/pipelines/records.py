"""What a trial of a pipeline found, in a few fixed words and a remark."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from longstride.errors import LongstrideError
from longstride.files import write_atomically

__all__ = [
    "KINDS",
    "STATUSES",
    "TRIALS",
    "Outcome",
    "Record",
    "Status",
    "first_line",
    "load_records",
    "of_error",
    "save_records",
]

#: What a trial can end with. A ``fault`` is an error that is not one clear sentence of longstride.
Status = Literal["same", "differs", "calibrated", "used", "works", "refused", "fault", "too slow", "not tried"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: The trials, in their order, by what is asked for: they are made together.
KINDS = {
    "sampling": ("sampling",),
    "calibration": ("calibration", "next_call", "card", "function"),
    "command": ("command",),
}
TRIALS = tuple(name for names in KINDS.values() for name in names)


@dataclass(frozen=True)
class Outcome:
    """What one trial found.

    Attributes:
        status: In a word.
        remark: What differs, or why it was refused or not tried; empty if there is nothing to say.
        difference: Largest difference, relative to the largest number; None if nothing was compared.
    """

    status: Status
    remark: str = ""
    difference: float | None = None


@dataclass
class Record:
    """What was found for one pipeline class.

    Attributes:
        name: Name of the class.
        family: Its folder in diffusers.
        modular: Whether it is a modular pipeline.
        scheduler: Class of its own scheduler; None if it has none, or was not built.
        process: Process of its scheduler, as longstride reads it; None if it reads none.
        reason: Why nothing was tried; None if something was.
        trials: Outcomes by the name of the trial.
    """

    name: str
    family: str
    modular: bool
    scheduler: str | None = None
    process: str | None = None
    reason: str | None = None
    trials: dict[str, Outcome] = field(default_factory=dict)

    @property
    def tried(self) -> bool:
        """Whether anything was tried on the class."""
        return any(outcome.status != "not tried" for outcome in self.trials.values())

    def after(self, before: Record | None) -> Record:
        """The record with trials of an earlier survey that were not made again; a class that was not tried has none."""
        if before is None or self.reason is not None:
            return self
        return replace(self, trials={**before.trials, **self.trials})

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON holds it: without what is None or empty."""
        found = asdict(self)
        found["trials"] = {name: _short(outcome) for name, outcome in found["trials"].items()}
        return _short(found)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Record:
        """The record of a dictionary that :meth:`as_dict` made."""
        trials = {name: Outcome(**outcome) for name, outcome in content.get("trials", {}).items()}
        return Record(**{**content, "modular": content.get("modular", False), "trials": trials})


def load_records(path: Path) -> list[Record]:
    """The records of a file that :func:`save_records` wrote."""
    return [Record.from_dict(one) for one in json.loads(path.read_text(encoding="utf-8"))["pipelines"]]


def save_records(path: Path, records: Sequence[Record], about: Mapping[str, Any]) -> None:
    """Write records into a file, one to a line.

    Args:
        path: The file.
        records: The records.
        about: What is said of the whole survey.
    """
    lines = ",\n".join("  " + json.dumps(record.as_dict(), ensure_ascii=False) for record in records)
    text = f'{{\n "about": {json.dumps(dict(about))},\n "pipelines": [\n{lines}\n ]\n}}\n'
    write_atomically(path, text.encode())


def _short(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in content.items()
        if value is not None and value is not False and value != "" and value != {}
    }


def of_error(error: BaseException) -> Outcome:
    """The outcome of a trial that ended in an error: refused by longstride in a sentence, or a fault."""
    if isinstance(error, LongstrideError):
        return Outcome("refused", " ".join(str(error).split()))
    return Outcome("fault", place_of(error))


def place_of(error: BaseException) -> str:
    """An error in one line: its kind, its first line, where it was raised and from which line of which pipeline."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    inside = [frame for frame in frames if "/diffusers/pipelines/" in frame.filename]
    inside += [frame for frame in frames if "/diffusers/modular_pipelines/" in frame.filename]
    text = f"{type(error).__name__}: {first_line(error)}"
    if last is not None:
        text += f" at {_spot(last)}"
    if inside and inside[-1] is not last:
        text += f" from {_spot(inside[-1])}"
    return text


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to a legible length."""
    return next(iter(str(error).strip().splitlines()), "")[:200]


def _spot(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
