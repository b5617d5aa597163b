"""The tables of ``docs/pipelines.md``, from the records of a survey."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.markdown import markdown_table
from benchmarks.pipelines.records import Outcome, Record, load_records

__all__ = ["pipeline_sections", "pipeline_table", "summary", "told", "untried_table"]

#: Heads of the columns of trials.
_HEADS = {
    "sampling": "sampling",
    "calibration": "calibration",
    "card": "card",
    "function": "function",
    "next_call": "next call",
    "command": "command line",
}


def pipeline_sections(file: Path) -> dict[str, Callable[[], str]]:
    """What can be said of a survey, by the names of its markers."""
    return {
        "pipelines:summary": lambda: summary(file),
        "pipelines:tried": lambda: pipeline_table(load_records(file)),
        "pipelines:untried": lambda: untried_table(load_records(file)),
    }


def summary(file: Path) -> str:
    """How many classes were tried, and what came of them."""
    records = load_records(file)
    about = json.loads(file.read_text(encoding="utf-8"))["about"]
    tried = [record for record in records if record.tried]
    counts = {name: Counter(record.trials[name].status for record in tried if name in record.trials) for name in _HEADS}
    functions = [outcome.difference for one in tried if (outcome := one.trials.get("function")) and outcome.difference]
    refused, calibrated = counts["calibration"]["refused"], counts["calibration"]["calibrated"]
    faults = sum(found[status] for found in counts.values() for status in ("fault", "too slow"))
    rows = [
        ("pipeline classes of the installed diffusers", len(records)),
        ("tried", len(tried)),
        ("sampling: the same picture as with the pipeline's own scheduler", counts["sampling"]["same"]),
        ("sampling: another picture", counts["sampling"]["differs"]),
        ("sampling: refused with the reason", counts["sampling"]["refused"]),
        ("calibrated", calibrated),
        ("calibration refused with the reason", refused),
        ("the card runs in the pipeline that it was made in", counts["card"]["used"]),
        ("the function that was calibrated is what the scheduler is handed", counts["function"]["same"]),
        ("largest relative difference of that function", f"{max(functions):.0e}" if functions else "–"),
        ("the next ordinary call draws the same picture, to the bit", counts["next_call"]["same"]),
        ("`longstride calibrate` and `longstride sample` on the saved pipeline", counts["command"]["works"]),
        ("faults: an error that is no sentence of longstride, or no end in time", faults),
    ]
    return f"diffusers {about['diffusers']}:\n\n" + markdown_table(("", "classes"), rows)


def pipeline_table(records: Sequence[Record]) -> str:
    """A line per class that was tried, by family."""
    rows, last = [], ""
    for record in sorted((one for one in records if one.tried), key=lambda one: (one.family, one.name)):
        family, last = "" if record.family == last else record.family.replace("_", " "), record.family
        cells = [_cell(record.trials.get(name)) for name in _HEADS]
        kind = f"{record.scheduler or ''}{f', {record.process}' if record.process else ''}"
        rows.append([family, record.name, kind, *cells, _remarks(record)])
    return markdown_table(("family", "pipeline", "scheduler, process", *_HEADS.values(), "remarks"), rows)


def untried_table(records: Sequence[Record]) -> str:
    """A line per class that nothing was tried on, with the reason."""
    rows = []
    for record in sorted(records, key=lambda one: (one.family, one.name)):
        if not record.tried:
            rows.append([record.name, _plain(record.reason or "")])
    return markdown_table(("pipeline", "why nothing was tried"), rows)


def _cell(outcome: Outcome | None) -> str:
    if outcome is None or outcome.status == "not tried":
        return "–"
    status = f"**{outcome.status}**" if outcome.status in ("fault", "too slow", "differs") else outcome.status
    return status if outcome.status != "differs" or outcome.difference is None else f"{status} {outcome.difference:.0e}"


def _remarks(record: Record) -> str:
    """The remarks of a class, each said once, with the trials that they belong to."""
    said: dict[str, list[str]] = {}
    for name, head in _HEADS.items():
        outcome = record.trials.get(name)
        if outcome is not None and outcome.remark and outcome.status != "not tried":
            said.setdefault(outcome.remark, []).append(head)
    return "; ".join(f"{', '.join(heads)}: {_plain(remark)}" for remark, heads in said.items())


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one cell of a table."""
    return "".join("\\" + c if c in "|*_<>`[]" else c for c in " ".join(text.split()))


def told(place: int, total: int, record: Record) -> str:
    """One line of progress: the place of a class, from 1, and what was found."""
    said = record.reason or ", ".join(f"{_HEADS[name]} {outcome.status}" for name, outcome in record.trials.items())
    return f"{place}/{total} {record.name}: {said}"
