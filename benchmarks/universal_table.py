"""Tables of what universal tables and budgets reach, for the page on them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import budgets, universal_starts
from benchmarks.markdown import markdown_table
from benchmarks.networks.members import MEMBERS
from benchmarks.universal import ratios, summary

__all__ = ["budget_table", "ranks_table", "starts_table", "tails_table", "universal_tables"]

_MEASURES = {"rmse": "RMSE", "median": "median", "frechet": "Fréchet distance"}
_KINDS = {"left_out": "as it is", "chosen": "chosen", "chosen_worst": "chosen, the worst draw"}
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
        taken = Counter(choice["name"] for choice in one.get("choices", []))
        rows.append(
            [
                name,
                one["kind"],
                f"{min(usual.values()):.3f}",
                f"{line['classical'][best]['rmse']:.3f} ({best})",
                f"{line['left_out']['rmse']:.3f}",
                f"{found['left_out/usual']:.2f}",
                f"{found['chosen/usual']:.2f} ({found['chosen_worst/usual']:.2f})" if "chosen" in line else "–",
                ", ".join(f"{key} {count}" for key, count in taken.most_common()),
            ]
        )
    head = ["network", "data", "usual", "best classical", "universal", "of usual", "chosen, of usual", "choices"]
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
    pictures = {name: one for name, one in results.items() if MEMBERS[name].kind != "tables"}
    for label, some in (("all", results), ("pictures", pictures)):
        for key in keys:
            row = [label, "no calibration" if key == "universal" else f"{int(key):,} calls"]
            for nfe in calls:
                for kind in ("rmse", "median"):
                    mean, worst, count = budgets.summary(some, nfe, key, kind)
                    row.append(f"{mean:.2f} ({worst:.2f}; {count})" if count else "–")
            rows.append(row)
    head = ["networks", "budget", *(f"{nfe} calls, {kind}" for nfe in calls for kind in ("RMSE", "median"))]
    return markdown_table(head, rows)


def tails_table(file: Path) -> str:
    """Shares of samples that a calibration within a budget makes much worse than the universal table, by budget."""
    results = json.loads(file.read_text(encoding="utf-8"))
    calls = sorted({int(nfe) for one in results.values() for nfe in one})
    rows = []
    for key in (*(f"{budget:.0f}" for budget in budgets.BUDGETS[:-1]), "default"):
        row = ["default" if key == "default" else f"{int(key):,} calls"]
        for nfe in calls:
            lines = [line for one in results.values() if "worse_2" in (line := one.get(str(nfe), {}).get(key, {}))]
            for kind in ("worse_2", "worse_4"):
                shares = [line[kind] for line in lines]
                row.append(f"{np.mean(shares):.2%} ({max(shares):.2%})" if shares else "–")
        rows.append(row)
    head = [f"{nfe} calls, more than {times} times" for nfe in calls for times in (2, 4)]
    return markdown_table(["budget", *head], rows)


def ranks_table(file: Path) -> str:
    """The default calibration with derivatives by a few directions per level, over that with exact derivatives."""
    results, rows = json.loads(file.read_text(encoding="utf-8")), list[list[object]]()
    exact, *others = universal_starts.RANKS
    for nfe in sorted({int(nfe) for one in results.values() for nfe in one}):
        for arm in others:
            lines = {name: one[str(nfe)] for name, one in results.items() if arm in one.get(str(nfe), {})}
            row: list[object] = [nfe, arm]
            for kind in ("rmse", "median", "calls"):
                ratios = [universal_starts.summary(line, kind, (exact, arm))[2] for line in lines.values()]
                row.append(f"{math.exp(float(np.mean(np.log(ratios)))):.2f} ({max(ratios):.2f})")
            spent = [universal_starts.summary(line, "calls", (exact, arm))[1] for line in lines.values()]
            rows.append([*row, f"{max(spent):,.0f}", ", ".join(f"`{name}`" for name in lines)])
    head = ["calls", "derivatives by", "RMSE (worst)", "median (worst)", "network calls", "most", "networks"]
    return markdown_table(head, rows)


def starts_table(file: Path) -> str:
    """The default calibration without and with universal starts: errors on fresh noise, and network calls."""
    results, rows = json.loads(file.read_text(encoding="utf-8")), list[list[object]]()
    calls = sorted({int(nfe) for one in results.values() for nfe in one})
    ratios: dict[tuple[int, str], list[float]] = {}
    for nfe in calls:
        for name, one in results.items():
            line = one.get(str(nfe), {})
            if any(arm not in line for arm in universal_starts.ARMS):
                continue
            row: list[object] = [nfe, name]
            for kind in ("rmse", "median"):
                before, after, ratio = universal_starts.summary(line, kind)
                ratios.setdefault((nfe, kind), []).append(ratio)
                row.append(f"{before:.4f} → {after:.4f} ({ratio:.2f})")
            before, after, _ = universal_starts.summary(line, "calls")
            kept = [sum(not draw["accepted"] for draw in line[arm].values()) for arm in universal_starts.ARMS]
            rows.append([*row, f"{before:,.0f} → {after:,.0f}", f"{kept[0]} → {kept[1]} of {len(line['universal'])}"])
        means = [math.exp(float(np.mean(np.log(ratios[nfe, kind])))) for kind in ("rmse", "median")]
        rows.append([nfe, "geometric mean", *(f"{mean:.2f}" for mean in means), "", ""])
    return markdown_table(["calls", "network", "RMSE", "median", "network calls", "base kept"], rows)
