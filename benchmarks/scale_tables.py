"""Tables of docs/scale.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table

__all__ = ["scale_sections"]

#: What the pieces of a calibration are, by the names of its work.
_PIECES = {
    "reference": "reference solutions",
    "reference-error": "their own error",
    "levels": "levels by dynamic programming",
    "together": "classical solvers, ranked",
    "jacobian": "Jacobians",
    "ends": "trials of steps",
    "whole-fits": "comparison of whole fits",
    "gate": "the gate",
    "gain": "the gate's stability",
}


def scale_sections(file: Path) -> dict[str, Callable[[], str]]:
    """What can be said of the results file, by the names of its markers."""
    content = json.loads(file.read_text(encoding="utf-8"))
    tables = {"bounds": _bounds, "pieces": _pieces, "paths": _paths, "speeds": _speeds, "times": _times}
    found = {f"scale:{name}": partial(write, content) for name, write in tables.items()}
    return {**found, "scale:limit": partial(_limit, file)}


def _run(content: dict[str, Any]) -> dict[str, Any]:
    """The calibration that times are worked out for: that of most calls."""
    found: dict[str, Any] = max(content["calibrations"], key=lambda run: run["nfe"])
    return found


def _bounds(content: dict[str, Any]) -> str:
    """Most network calls of a calibration, and those that were counted."""
    counted = {run["nfe"]: run["calls"] for run in content["calibrations"]}
    rows = [
        (nfe, f"{most:,}", f"{counted[int(nfe)]:,}" if int(nfe) in counted else "–")
        for nfe, most in content["bounds"].items()
    ]
    head = ("calls of the sampler", "calls of its calibration at most", f"counted ({_run(content)['model']})")
    return markdown_table(head, rows)


def _pieces(content: dict[str, Any]) -> str:
    """Where the calls go, and how many processes can share a piece."""
    run = _run(content)
    pieces = sorted(run["pieces"], key=lambda one: (-one["units"], -one["calls"]))
    rows = [(_PIECES[one["kind"]], one["units"], f"{one['calls'] / run['calls']:.1%}") for one in pieces]
    return markdown_table(("work", "units, and processes that can share it", "of all calls"), rows)


def _paths(content: dict[str, Any]) -> str:
    """What the slowest process does."""
    rows = []
    for run in sorted(content["calibrations"], key=lambda run: int(run["nfe"])):
        for path in run["paths"]:
            speedup = run["calls"] / path["samples"]
            cells = (f"{path['samples']:,}", f"{path['launches']:,}", f"{speedup:.1f}")
            rows.append((run["nfe"], path["processes"], *cells, f"{speedup / path['processes']:.0%}"))
    head = ("calls of the sampler", "processes", "calls on the critical path", "launches on it", "times faster")
    return markdown_table((*head, "efficiency"), rows)


def _speeds(content: dict[str, Any]) -> str:
    """The assumptions."""
    rows = []
    for one in content["networks"]:
        source = f"[{one['arithmetic']}]({one['source']})" if one["source"] else one["arithmetic"]
        rows.append((one["name"], _seconds(one["seconds"]), one["gpu"], source))
    return markdown_table(("network", "assumed time of a call", "GPU", "source"), rows)


def _times(content: dict[str, Any]) -> str:
    """Times at the assumed speeds: of a card, and of its evaluation."""
    run, rows = _run(content), []
    for one in content["networks"]:
        speed, paths = one["seconds"], one["evaluation"]["paths"]
        cards = [_between(path, speed, one["full"]) for path in run["paths"]]
        many = max(path["processes"] for path in run["paths"])
        apart = many * 3600 / (run["calls"] * speed)
        evaluations = [_seconds(path * speed) for path in paths.values()]
        cells = (
            *cards,
            f"{apart:,.0f}" if apart >= 100 else f"{apart:.1f}",
            f"{one['evaluation']['samples']:,}",
            *evaluations,
        )
        rows.append((one["name"], *cells))
    numbers = [path["processes"] for path in run["paths"]]
    cards = [f"a card, {n} GPU{'s' * (n > 1)}" for n in numbers]
    head = ("network", *cards, f"cards per hour, {numbers[-1]} jobs of 1 GPU", "samples evaluated")
    return markdown_table((*head, *(f"on {n} GPU{'s' * (n > 1)}" for n in numbers)), rows)


def _between(path: dict[str, int], speed: float, full: int) -> str:
    """Time of a path: its samples at full speed, up to its launches, each as long as a full launch."""
    low, high = path["samples"] * speed, max(path["samples"], path["launches"] * full) * speed
    return _seconds(low) if full == 1 else f"{_seconds(low)} – {_seconds(high)}"


def _seconds(value: float) -> str:
    """A time with two digits, in the unit that suits it."""
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if value >= 1.5 * size or unit == "ms":
            return f"{value / size:.2g} {unit}" if value / size < 100 else f"{value / size:.0f} {unit}"
    raise AssertionError


def _limit(file: Path) -> str:
    """What was measured of whole calibrations, beside the time of their network calls alone."""
    measured = json.loads(file.with_name("calibration_time.json").read_text(encoding="utf-8"))
    each = measured["ms_per_call_and_sample"] / 1000
    rows = [
        (row["nfe"], f"{row['calls']:,}", f"{row['calls'] * each:.0f}", row["processes"], f"{row['seconds']:.0f}")
        for row in measured["rows"]
    ]
    head = (
        "calls of the sampler",
        "network calls",
        "these alone, in one process, s",
        "processes",
        "whole, s",
    )
    note = f"(garments, {measured['cores']} cores, `python -m benchmarks.calibration_time`)"
    return f"{markdown_table(head, rows)}\n\n{note}"
