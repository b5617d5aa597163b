"""Results as one tidy table with a line per contestant, number of calls and measure, in JSON and in Parquet."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from longstride.errors import InputError
from longstride.files import write_atomically

__all__ = ["Line", "Results", "load_results", "merged", "save_results"]


@dataclass(frozen=True)
class Line:
    """One measured number.

    Attributes:
        model: Name of the model.
        guidance: Classifier-free guidance scale, or None.
        contestant: Name of the sampler; ``teacher`` stands for the converged solution.
        base: Name of its sampler without calibration, or None.
        nfe: Network evaluations per sample, counted at the network; a guided pair counts once.
        calls: Forward passes per sample; a guided pair counts twice.
        measure: What was measured; see :data:`~longstride.evaluation.summary.MEASURES`.
        value: The number.
        low: Lower end of its interval, or None.
        high: Upper end of its interval, or None.
        change: Value less the base's value from the same seeds, or None.
        change_low: Lower end of the interval of the change, or None.
        change_high: Upper end of the interval of the change, or None.
    """

    model: str
    guidance: float | None
    contestant: str
    base: str | None
    nfe: int
    calls: int
    measure: str
    value: float
    low: float | None = None
    high: float | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None


@dataclass(frozen=True)
class Results:
    """A finished study.

    Attributes:
        about: What was studied and how, as plain data.
        lines: What was measured.
    """

    about: dict[str, Any]
    lines: tuple[Line, ...]

    def value(self, contestant: str, nfe: int, measure: str) -> Line | None:
        """The line of a contestant, a number of calls and a measure, or None."""
        return self._index.get((contestant, nfe, measure))

    @property
    def _index(self) -> dict[tuple[str, int, str], Line]:
        known = self.__dict__.get("_known")
        if known is None:
            known = {(line.contestant, line.nfe, line.measure): line for line in self.lines}
            object.__setattr__(self, "_known", known)
        return known

    @property
    def contestants(self) -> list[str]:
        """Names of the samplers, in order, without the teacher."""
        return [name for name in dict.fromkeys(line.contestant for line in self.lines) if name != "teacher"]

    @property
    def nfes(self) -> list[int]:
        """All numbers of calls, rising, without the teacher's."""
        return sorted({line.nfe for line in self.lines if line.contestant != "teacher"})


def merged(old: Results, new: Results) -> Results:
    """The results of two runs of one study.

    If a sampler was measured again at a number of calls, its old lines there are dropped. Of the teacher an old line is
    dropped if the later run has the same measure.

    Args:
        old: Results of the earlier run.
        new: Results of the later run. Its ``about`` is kept; labels, searches and numbers of calls of the earlier run
            are added to it.

    Raises:
        InputError: the runs differ in their model or settings.
    """
    settings = [{k: v for k, v in one.about["study"].items() if k != "nfes"} for one in (old, new)]
    if settings[0] != settings[1] or old.about["model"] != new.about["model"]:
        raise InputError("the results that are there are of another model or other samples: move them away first")

    def key(line: Line) -> tuple[str, int | str]:
        return (line.contestant, line.measure if line.contestant == "teacher" else line.nfe)

    again = {key(line) for line in new.lines}
    kept = [line for line in old.lines if key(line) not in again]
    # The teacher first, then by number of calls; equal numbers keep their order.
    lines = sorted([*kept, *new.lines], key=lambda line: (line.contestant != "teacher", line.nfe))
    nfes = sorted({*old.nfes, *new.nfes})
    joined = {name: {**old.about.get(name, {}), **new.about.get(name, {})} for name in ("labels", "search")}
    return Results({**new.about, **joined, "study": {**new.about["study"], "nfes": nfes}}, tuple(lines))


def save_results(results: Results, path: Path) -> None:
    """Write everything to ``path`` as JSON, and the lines beside it as ``.parquet``.

    Raises:
        InputError: the path cannot be written, the package for Parquet is missing, or a value is not finite.
    """
    content = {
        "format": "longstride-results",
        "version": 1,
        "about": results.about,
        "lines": [asdict(line) for line in results.lines],
    }
    try:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    except ValueError:
        bad = next(line for line in results.lines if not math.isfinite(line.value))
        raise InputError(
            f"{bad.measure} of {bad.contestant} at {bad.nfe} calls is {bad.value}: too few samples, or samples that "
            "are no pictures"
        ) from None
    write_atomically(path.with_suffix(".parquet"), _parquet(results.lines))
    write_atomically(path, text.encode())


def _parquet(lines: Iterable[Line]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("Parquet files need an extra package: pip install 'longstride[metrics]'") from None
    kinds = {"str": pa.string(), "int": pa.int32(), "float": pa.float64()}
    schema = pa.schema([(field.name, kinds[str(field.type).partition(" ")[0]]) for field in fields(Line)])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(line) for line in lines], schema=schema), buffer)
    return buffer.getvalue()


def load_results(path: Path) -> Results:
    """Read what :func:`save_results` wrote.

    Raises:
        InputError: the file is missing, empty, cut short, or holds no results; the message says which.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read results {path}: {getattr(error, 'strerror', None) or error}") from None
    if not text.strip():
        raise InputError(f"{path} is empty: run the command that writes it again")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not complete JSON (cut short or damaged: {error}): write it again") from None
    if not isinstance(raw, dict) or raw.get("format") != "longstride-results":
        raise InputError(f'{path} holds no results: expected JSON with "format": "longstride-results"')
    if raw.get("version") != 1:
        raise InputError(f"{path} has results of version {raw.get('version')!r}, this longstride reads version 1")
    try:
        return Results(dict(raw["about"]), tuple(Line(**line) for line in raw["lines"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; write it again") from None
