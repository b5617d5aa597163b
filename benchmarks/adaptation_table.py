"""What online adaptation came to, for the page on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.adaptation_traffic import TRAFFIC
from benchmarks.markdown import markdown_table

__all__ = ["adaptation_sections"]

_REASONS = {
    "flagged": "flagged",
    "non_finite": "not finite",
    "constant": "constant",
    "scale": "scale",
    "not_white": "not white",
    "repeated": "repeated",
    "late": "late",
}


def adaptation_sections(file: Path) -> dict[str, Callable[[], str]]:
    """The stream, and the hostile traffic, by the names of their markers."""
    return {"adaptation:stream": partial(_stream, file), "adaptation:hostile": partial(_traffic, file)}


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _stream(file: Path) -> str:
    found = _read(file)

    def line(row: dict[str, Any]) -> tuple[object, ...]:
        def error(name: str) -> str:
            parts = [row[name][measure] / row["base"][measure] for measure in ("rmse", "median")]
            return f"{parts[0]:.2f} ({parts[1]:.2f})"

        return (
            f"{row['requests']:,}",
            f"{100 * row['size']:g} %",
            error("card"),
            error("adapted"),
            f"{row['used']:,}",
            f"{row['calls']:,}",
            f"{row['candidates']}, {row['proposed']}, {row['adopted']}",
            f"{row['move']:.2f}",
        )

    head = (
        "live references",
        "change",
        "card as it was",
        "adapted",
        "used",
        "network calls",
        "tried, proposed, adopted",
        "largest move",
    )
    about = found["about"]
    where = (
        f"{about['model']} at {about['nfe']} calls; RMSE (median) on {about['fresh']} fresh samples, as parts of the "
        "base's on the same network; network calls in samples, beside those of the live references; no move is above "
        f"{about['bound']:g}"
    )
    return f"{markdown_table(head, map(line, found['stream']))}\n\n({where})"


def _traffic(file: Path) -> str:
    found = _read(file)

    def line(name: str) -> tuple[object, ...]:
        row = found["traffic"][name]
        refused = [f"{count} {_REASONS[reason]}" for reason, count in row["refused"].items() if count]
        moved = f"{row['farthest'] / row['bound']:.2f}"
        return (TRAFFIC[name], row["used"], ", ".join(refused) or "–", row["candidates"], row["proposed"], moved)

    head = ("traffic", "used", "refused", "tried", "proposed", "farthest that a candidate would go, in the bound")
    about = found["about"]
    table = markdown_table(head, (line(name) for name in TRAFFIC))
    return f"{table}\n\n({about['hostile']} requests each; {about['model']} at {about['nfe']} calls)"
