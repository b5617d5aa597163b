"""What recalibrations came to, for the page on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table

__all__ = ["recalibration_table"]


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    def error(name: str) -> str:
        parts = [row[name][measure] / row["base"][measure] for measure in ("rmse", "median")]
        return f"{parts[0]:.2f} ({parts[1]:.2f})"

    calls = row["calls"]
    anew = (error("anew"), f"{calls['anew']:,}") if row["size"] else ("–", "–")
    return (
        f"{100 * row['size']:g} %",
        error("card"),
        row["verdict"],
        error("recalibrated"),
        f"{calls['recalibrated']:,}",
        *anew,
    )


def recalibration_table(file: Path) -> str:
    """Errors of the card as it was, recalibrated, and calibrated anew, by the size of the change."""
    found = json.loads(file.read_text(encoding="utf-8"))
    head = ("change", "card", "verdict", "recalibrated", "network calls", "calibrated anew", "network calls")
    table = markdown_table(head, map(_line, found["rows"]))
    about = found["about"]
    where = f"{about['model']} at {about['nfe']} calls; network calls in samples, the reference solutions included"
    return f"{table}\n\n({where})"
