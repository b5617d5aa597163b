"""The tables of the ablations, from their results file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import markdown_table
from longstride.errors import InputError
from longstride.evaluation.contestants import label

__all__ = ["ablation_sections"]

Record = dict[str, Any]


def ablation_sections(file: Path) -> dict[str, Callable[[], str]]:
    """Tables by the names of their markers, ``MODEL:ablation``.

    Raises:
        InputError: the file is no results file of ablations.
    """
    try:
        found: dict[str, list[Record]] = json.loads(file.read_text(encoding="utf-8"))["ablations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} holds no ablations ({error}): run python -m benchmarks paper again") from None
    slug = file.stem.removeprefix("ablations_")
    if slug.startswith("newton_"):
        return {
            f"{slug}:{name}": (lambda name=name, rows=rows: (_carried if name == "transfer" else _newton)(rows))  # type: ignore[misc]
            for name, rows in found.items()
        }
    writers: dict[str, Callable[[list[Record]], str]] = {
        "look_back": lambda rows: _cross(rows, ("base", "directions", "nfe"), "r"),
        "stages": lambda rows: _cross(rows, ("base", "nfe"), "stages"),
        "substeps": lambda rows: _cross(rows, ("base",), "substeps"),
        "batch": lambda rows: _cross(rows, ("base",), "batch"),
        "fine": lambda rows: _cross(rows, ("base",), "fine"),
        "trajectory": lambda rows: _cross(rows, ("base", "nfe"), "trajectory"),
        "calls": _calls,
        "seeds": _seeds,
        "grids": lambda rows: _transfer(rows, "grid"),
        "guidance": lambda rows: _transfer(rows, "guidance"),
        "classes": lambda rows: _transfer(rows, "classes"),
    }
    return {
        f"{slug}:{name}": (lambda write=write, rows=found[name]: write(rows))  # type: ignore[misc]
        for name, write in writers.items()
        if name in found
    }


def _cross(rows: list[Record], down: tuple[str, ...], across: str) -> str:
    """RMSE with one setting across; over seeds the mean and, in brackets, the range."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    if all(isinstance(column, int) for column in columns):
        columns.sort()
    groups: dict[tuple[Any, ...], dict[Any, list[Record]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in down), {}).setdefault(row[across], []).append(row)
    lines = []
    for key, cells in groups.items():
        shown = [label(value) if name == "base" else value for name, value in zip(down, key, strict=True)]
        base = next(iter(cells.values()))[0]["base_rmse"]
        lines.append([*shown, f"{base:.4f}", *(_cell(cells.get(column)) for column in columns)])
    return markdown_table([*_names(down), "base", *(f"{across} = {column}" for column in columns)], lines)


def _names(keys: Iterable[str]) -> list[str]:
    return [{"base": "solver", "nfe": "calls"}.get(key, key) for key in keys]


def _cell(rows: list[Record] | None) -> str:
    if not rows:
        return "–"
    values = [row["rmse"] for row in rows]
    spread = f" ({min(values):.4f}–{max(values):.4f})" if len(values) > 1 else ""
    return _marked(f"{np.mean(values):.4f}", rows) + spread


def _marked(text: str, rows: list[Record]) -> str:
    """Bold if all are better than the base outside their 95 % interval, italic if all are worse."""
    if all((row["ratio_high"] or 1) < 1 for row in rows):
        return f"**{text}**"
    return f"*{text}*" if all((row["ratio_low"] or 1) > 1 for row in rows) else text


def _ratio(row: Record) -> str:
    return _marked(f"{row['ratio']:.3f}", [row])


def _calls(rows: list[Record]) -> str:
    nfes = sorted({row["nfe"] for row in rows})
    lines = []
    for base in dict.fromkeys(row["base"] for row in rows):
        known = {row["nfe"]: row for row in rows if row["base"] == base}
        cells = [f"{_ratio(known[n])} ({known[n]['rows_kept']})" if n in known else "–" for n in nfes]
        lines.append([label(base), *cells])
    return markdown_table(["calibrated / base RMSE (rows kept)", *nfes], lines)


def _seeds(rows: list[Record]) -> str:
    lines = []
    for base in dict.fromkeys(row["base"] for row in rows):
        mine = [row for row in rows if row["base"] == base]
        ratios = [row["ratio"] for row in mine]
        spread = np.array([[c for step in row["coefficients"] for c in step] for row in mine])
        relative = spread.std(0) / np.maximum(np.abs(spread).mean(0), 1e-12)
        lines.append([label(base), len(mine), f"{min(ratios):.3f}–{max(ratios):.3f}", f"{np.median(relative):.1%}"])
    return markdown_table(["solver", "seeds", "calibrated / base RMSE", "median spread of a coefficient"], lines)


def _transfer(rows: list[Record], what: str) -> str:
    """RMSE over the base's: the setting of the fit down, the setting of the use across."""
    targets = list(dict.fromkeys(row["to"] for row in rows))
    lines = []
    for base in dict.fromkeys(row["base"] for row in rows):
        for source in dict.fromkeys(row["from"] for row in rows):
            cells = {row["to"]: _ratio(row) for row in rows if row["from"] == source and row["base"] == base}
            lines.append([label(base), source, *(cells.get(target, "–") for target in targets)])
    return markdown_table(["solver", f"{what}: found on ↓, used on →", *targets], lines)


def _newton(rows: list[Record]) -> str:
    """One line per setting: what was set, RMSE of the best classical solver and of the fit, and what it took."""
    keys = list(rows[0])
    asked = [key for key in keys[: keys.index("begun")] if key != "scouts"]
    seen, lines = rows[0].get("fd") is not None, []
    for row in rows:
        medians = f"{row['base_median']:.4f}", f"{row['median']:.4f}"
        errors = f"{row['base_rmse']:.4f} ({medians[0]})", _marked(f"{row['rmse']:.4f} ({medians[1]})", [row])
        cost = f"{row['calls'] / row['unknowns']:,.0f}"
        spent = row["iterations"], f"{row['calls']:,}", cost
        distance = [f"{row['fd']:.2f}"] if seen else []
        lines.append([*(row.get(key, "") for key in asked), row["begun"], *errors, *distance, *spent])
    head = ["calls" if key == "nfe" else key for key in asked]
    measures = ["best classical", "fitted", *(["FD"] if seen else [])]
    return markdown_table([*head, "begun at", *measures, "steps", "network calls", "per unknown"], lines)


def _carried(rows: list[Record]) -> str:
    """One line per network that a table was found on, one column per network that it is used on."""
    targets = list(dict.fromkeys(row["to"] for row in rows))
    lines = []
    for source in dict.fromkeys(row["from"] for row in rows):
        cells = {
            row["to"]: f"{_ratio(row)} ({row['rmse'] / row['own_rmse']:.2f})" for row in rows if row["from"] == source
        }
        lines.append([source, *(cells.get(target, "–") for target in targets)])
    return markdown_table(["found on ↓, used on →", *targets], lines)
