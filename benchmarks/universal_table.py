"""Tables of what universal tables and budgets reach, for the page on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import budgets
from benchmarks.markdown import markdown_table
from benchmarks.universal import ratios, summary

__all__ = ["budget_table", "universal_tables"]

_MEASURES = {"rmse": "RMSE", "median": "median", "frechet": "Fréchet distance"}
_KINDS = {"left_out": "as it is", "left_out_scaled": "scale chosen"}
#: A table of as many calls is shown network by network.
_SHOWN = (5, 8)


def _pair(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.2f} ({found['worst']:.2f}, {found['of']})" if found["networks"] else "–"


def _overview(networks: Mapping[str, Any], rival: str) -> str:
    calls = sorted({int(key) for one in networks.values() for key in one if key.isdigit()})
    rows = list[list[object]]()
    for measure, shown in _MEASURES.items():
        for kind, label in _KINDS.items():
            pairs = [_pair(summary(networks, nfe, measure, f"{kind}/{rival}")) for nfe in calls]
            rows.append([f"{shown}, {label}", *pairs])
    counts = [summary(networks, nfe, "rmse", f"left_out/{rival}")["networks"] for nfe in calls]
    rows.append(["networks", *counts])
    return markdown_table(["network calls", *calls], rows)


def _every(networks: Mapping[str, Any], nfe: int) -> str:
    rows = []
    for name, one in networks.items():
        line = one.get(str(nfe), {})
        if "left_out" not in line:
            continue
        usual = {key: line["classical"][key]["rmse"] for key in line["usual"] if key in line["classical"]}
        best = min(line["classical"], key=lambda key: line["classical"][key]["rmse"])
        found = ratios(line, "rmse")
        rows.append(
            [
                name,
                one["kind"],
                f"{min(usual.values()):.3f}",
                f"{line['classical'][best]['rmse']:.3f} ({best})",
                f"{line['left_out']['rmse']:.3f}",
                f"{line['left_out_scaled']['rmse']:.3f}",
                f"{found['left_out/usual']:.2f}",
                f"{found['left_out_scaled/usual']:.2f}",
            ]
        )
    head = ["network", "data", "usual", "best classical", "universal", "scale chosen", "of usual", "scale chosen"]
    return markdown_table(head, rows)


def universal_tables(file: Path) -> dict[str, str]:
    """Sections by the names of their markers."""
    networks = json.loads(file.read_text(encoding="utf-8"))["own"]
    return {
        "universal:usual": _overview(networks, "usual"),
        "universal:best": _overview(networks, "best"),
        **{f"universal:{nfe}": _every(networks, nfe) for nfe in _SHOWN},
    }


def budget_table(file: Path) -> str:
    """Errors over those of the default calibration, by budget."""
    results = json.loads(file.read_text(encoding="utf-8"))
    calls = sorted({int(nfe) for one in results.values() for nfe in one})
    keys = ["universal", *(f"{budget:.0f}" for budget in budgets.BUDGETS[:-1])]
    rows = []
    for key in keys:
        row = ["no calibration" if key == "universal" else f"{int(key):,} calls"]
        for nfe in calls:
            for kind in ("rmse", "median"):
                mean, worst, count = budgets.summary(results, nfe, key, kind)
                row.append(f"{mean:.2f} ({worst:.2f})" if count else "–")
        rows.append(row)
    head = ["budget", *(f"{nfe} calls, {kind}" for nfe in calls for kind in ("RMSE", "median"))]
    return markdown_table(head, rows)
