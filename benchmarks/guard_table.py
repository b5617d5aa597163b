"""What guards came to on fresh samples, for the page on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table

__all__ = ["adversarial_table", "guard_table"]

Row = Mapping[str, Any]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _errors(row: Row, name: str) -> tuple[str, ...]:
    found = row[name]
    return f"{found['rmse']:.2f} ({found['median']:.2f})", _percent(found["worse_4"])


def _claim(row: Row) -> str:
    claim = row["claim"]
    if claim is None:
        return "–"
    return f"{_percent(claim['share'])}: {_percent(row['guarded']['worse_2'])}"


def _effort(row: Row) -> tuple[str, str]:
    return f"{row['samples']:,}", f"{row['calibration_calls'] / 1000:.0f}"


def _where(row: Row) -> tuple[object, ...]:
    return row["model"], row["nfe"], f"{row['fitted']} + {row['held_out']}", row["set"]


def _guarded(rows: Iterable[Row]) -> str:
    head = (
        *("network", "calls", "samples", "set", "table alone", "> 4 ×, %", "guarded", "> 4 ×, %"),
        *("looks after call", "made again, %", "calls in all", "claimed > 2 ×, %: found", "fresh", "cost"),
    )
    lines = (
        (
            *_where(row),
            *_errors(row, "unguarded"),
            *(_errors(row, "guarded") if row["accepted"] else ("refused", "–")),
            row["look"],
            _percent(row["flagged"]),
            f"{row['calls']:.2f}",
            _claim(row),
            *_effort(row),
        )
        for row in rows
    )
    return markdown_table(head, lines)


def _plain(rows: Iterable[Row]) -> str:
    head = ("network", "calls", "samples", "set", "table", "> 2 ×, %", "> 4 ×, %", "fresh", "cost")
    lines = ((*_where(row), *_errors(row, "unguarded")[:1], *_worse(row), *_effort(row)) for row in rows)
    return markdown_table(head, lines)


def _worse(row: Row) -> tuple[str, str]:
    return _percent(row["unguarded"]["worse_2"]), _percent(row["unguarded"]["worse_4"])


def _far(row: Row) -> str:
    """Who is lost, and where it parts from the base, of one calibration."""
    errors, away = row["far"]["errors"], row["far"]["away"]

    def line(label: str, base: str, table: str | None, runs: tuple[str, str]) -> tuple[object, ...]:
        quantiles = [" / ".join(f"{x:.3f}" for x in errors[name]) if name else "–" for name in (base, table)]
        tracks = [", ".join(f"{x:.2f}" for x in away[run]) for run in runs]
        return label, *quantiles, *tracks

    head = (
        *("samples", "error of the base: quantiles 5, 50, 95 %", "of the table"),
        *("outputs of the base: distance by call", "of the table"),
    )
    lines = [
        line("more than 4 × as far off", "base_far", "table_far", ("base_far", "table_far")),
        line("others (errors: all)", "base_all", None, ("base_others", "table_others")),
    ]
    return markdown_table(head, lines)


def guard_table(file: Path) -> str:
    """Guarded tables, tables of plain fits, and who is lost by these."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    mined, guarded, plain = ([row for row in rows if row["how"] == which] for which in ("mined", "guarded", "plain"))
    parts = [
        "Root-mean-square error, and in brackets the median error, over the base's. Fresh: number of fresh samples of "
        "the measurement. Cost: network calls of the calibration in thousands, reference solution not included."
    ]
    if mined:
        parts += ["With hard samples:", _guarded(mined)]
    if guarded:
        parts += ["Without hard samples (`guard_mined=0`):", _guarded(guarded)]
    if plain:
        parts += ["Without a guard, and so with fits of plain errors:", _plain(plain)]
    if lost := [row for row in plain if row["far"] is not None]:
        worst = max(lost, key=lambda row: float(row["unguarded"]["worse_4"]))
        where = f"{worst['model']} at {worst['nfe']} calls, set {worst['set']}"
        parts += [f"Who is lost by a plain fit, on {where}:", _far(worst)]
    return "\n\n".join(parts)


def adversarial_table(file: Path) -> str:
    """How often claims fail after calibrations that are likely to go wrong."""
    head = (
        *("kind", "calibrations", "accepted", "claims", "claims that fail", "chance of as many"),
        *("accepted, and worse than the base", "largest RMSE over the base's"),
    )
    rows = []
    for row in json.loads(file.read_text(encoding="utf-8"))["summary"]:
        chance, largest = (row[key] for key in ("chance", "largest_rmse"))
        counts = (row[key] for key in ("kind", "calibrations", "accepted", "claims", "claims_that_fail"))
        first, last = ("–" if value is None else f"{value:.2f}" for value in (chance, largest))
        rows.append((*counts, first, row["worse_than_base"], last))
    return markdown_table(head, rows)
