"""The summary over networks and methods, for its page: tables, and one picture of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import markdown_table
from benchmarks.peers import PEERS
from benchmarks.summary import BUDGETS, MEASURES, USUAL, aggregate
from longstride.calibration.starts.classical import CLASSICAL
from longstride.evaluation.contestants import label
from longstride.plots.style import BASE, CURVES, GREY, INK, OURS, Look, log_axes, new_figure, save_figure, styled

__all__ = ["common", "draw_summary", "spread", "summary_sections"]

#: Methods by name, in the order of the tables.
_LABELS = {
    **{f"{name}@usual": f"{label(name)}, default levels" for name in CLASSICAL},
    **{name: f"{label(name)}, best grid" for name in (*CLASSICAL, "heun")},
    "usual": "the best of DDIM, DPM-Solver++ 2M and UniPC-3, default levels",
    "best": "the best classical solver, in hindsight",
    **{name: peer.LABEL for name, peer in PEERS.items()},
    **{name: label(name) for name in ("iia_dpmpp_2m", "iia_ipndm", "iia_ddim", "global")},
    "universal": "universal table as it is",
    "chosen": "`ls.choose`",
    "chosen_worst": "`ls.choose`, the worst of five draws",
    **{f"budget_{calls}": f"budget of {calls:,} calls" for calls in BUDGETS},
    "longstride": "**longstride**, the default calibration",
}


def summary_sections(file: Path) -> dict[str, Callable[[], str]]:
    """What can be said of the results file, by the names of its markers."""
    found = json.loads(file.read_text(encoding="utf-8"))
    parts = [(part, measure) for part in found if part != "calls" for measure in MEASURES]
    return {
        **{f"summary:{part}:{measure}": partial(_table, found[part][measure]) for part, measure in parts},
        "summary:networks": partial(_networks, found),
        "summary:short:many": partial(_table, found["many"]["rmse"], _kept),
        "summary:short:peers": partial(_table, found["peers_best"]["rmse"], _kept),
    }


def _kept(name: str) -> bool:
    """Whether a method stands in short tables, which leave out solvers that few people use."""
    solver, _, levels = name.partition("@")
    if levels:
        return solver in USUAL
    return name == "unipc3" or not (solver in (*CLASSICAL, "heun") or name == "chosen_worst")


def _table(methods: Mapping[str, Any], kept: Callable[[str], bool] = lambda name: True) -> str:
    calls = sorted({int(nfe) for at in methods.values() for nfe in at})
    rows = []
    for name, text in _LABELS.items():
        if (at := methods.get(name)) and kept(name):
            cells = [at.get(str(nfe)) for nfe in calls]
            rows.append([text, *("–" if cell is None else _cell(cell) for cell in cells)])
    return markdown_table(["network calls", *calls], rows)


def _cell(cell: Mapping[str, Any]) -> str:
    return f"{cell['mean']:.2f} ({cell['worst']:.2f}; {len(cell['networks'])})"


def _networks(found: Mapping[str, Any]) -> str:
    """Which networks a row covers, by calls."""
    rows = []
    for part, title in (("many", "many"), ("peers_best", "peers")):
        sets: dict[tuple[str, ...], dict[str, list[str]]] = {}
        for method, text in _LABELS.items():
            for nfe, cell in found[part]["rmse"].get(method, {}).items():
                sets.setdefault(tuple(cell["networks"]), {}).setdefault(text, []).append(nfe)
        for names, methods in sets.items():
            said = [f"{text} ({', '.join(nfes)})" for text, nfes in methods.items()]
            rows.append([title, len(names), ", ".join(f"`{name}`" for name in names), "; ".join(said)])
    return markdown_table(["table", "networks", "which", "rows (calls)"], rows)


# The picture


@dataclass(frozen=True)
class _Panel:
    """Lines over the same networks.

    Attributes:
        title: What it shows.
        part: Part of the summary.
        methods: Methods that say which networks and calls are shown: those at which all of them are known.
        more: Methods that are drawn at those calls at which all networks of the panel are known.
    """

    title: str
    part: str
    methods: tuple[str, ...]
    more: tuple[str, ...] = ()


_PANELS = (
    _Panel("no calibration", "many_best", ("usual", "universal", "chosen")),
    _Panel("calibrated", "peers_best", ("longstride",), ("chosen",)),
    _Panel("beside other methods", "peers_best", ("dc_solver", "gs", "longstride")),
)
#: Label and look of each line.
_LOOKS: dict[str, tuple[str, Look]] = {
    "best": ("best of all solvers", Look(INK, "", False)),
    "usual": ("best usual solver", BASE),
    "universal": ("universal table", CURVES[1]),
    "chosen": ("ls.choose", CURVES[2]),
    "dc_solver": ("DC-Solver", CURVES[3]),
    "gs": ("GS", CURVES[4]),
    "longstride": ("longstride", OURS),
}
#: Where the axis of ratios ends; larger ones are written there.
_TOP = 6.0
#: Panels of fewer networks have bands from the best network to the worst.
_FEW = 8


def common(methods: Mapping[str, Any], names: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """The numbers of calls and the networks of which every method is known at every number.

    Of all sets of networks that some number of calls has, the set with the most pairs of networks and calls is taken.

    Args:
        methods: A part of the summary in one measure.
        names: The methods.
    """
    shared: dict[int, set[str]] = {}
    for nfe in {int(nfe) for name in names for nfe in methods.get(name, {})}:
        shared[nfe] = set.intersection(
            *(set(methods.get(name, {}).get(str(nfe), {}).get("networks", ())) for name in names)
        )
    best: tuple[list[int], list[str]] = ([], [])
    for wanted in shared.values():
        calls = sorted(nfe for nfe, networks in shared.items() if wanted <= networks)
        if wanted and (len(wanted) * len(calls), len(calls)) > (len(best[0]) * len(best[1]), len(best[0])):
            best = calls, sorted(wanted)
    return best


def spread(methods: Mapping[str, Any], name: str, calls: list[int], networks: list[str]) -> dict[int, dict[str, Any]]:
    """Aggregated ratios of a method over these networks, at the calls at which all of them are known."""
    known = {nfe: methods.get(name, {}).get(str(nfe), {}).get("networks", {}) for nfe in calls}
    return {nfe: aggregate({n: one[n] for n in networks}) for nfe, one in known.items() if set(networks) <= set(one)}


@styled
def draw_summary(results: Path, pictures: Path) -> list[Path]:
    """Draw root-mean-square errors over those of the best classical solvers in hindsight, against network calls.

    All lines of a panel are of the same networks.

    Args:
        results: Folder of the results files.
        pictures: Where the picture goes.

    Returns:
        The picture, or nothing if there is nothing to draw.
    """
    if not (results / "summary.json").is_file():
        return []
    found = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    panels = [panel for panel in _PANELS if common(found[panel.part]["rmse"], panel.methods)[0]]
    if not panels:
        return []
    figure, (axes,) = new_figure(3.2 * len(panels), 3.9, 1, len(panels), sharey=True)
    ends = [_draw(ax, panel, found[panel.part]["rmse"]) for ax, panel in zip(axes, panels, strict=True)]
    axes[0].set_ylim(0.9 * min(ax.dataLim.ymin for ax in axes), _TOP)
    for ax, places in zip(axes, ends, strict=True):  # when all lines are drawn, and the axes end where they end
        _name_lines(ax, places)
    axes[0].set_ylabel("error over that of the best classical solver\nin hindsight (RMSE, geometric mean)")
    pictures.mkdir(parents=True, exist_ok=True)
    save_figure(figure, pictures / "summary.png")
    return [pictures / "summary.png"]


def _draw(ax: Any, panel: _Panel, methods: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Draw the lines and bands of a panel, and say where the lines end."""
    calls, networks = common(methods, panel.methods)
    low, high = ("best", "worst") if len(networks) <= _FEW else ("low", "high")
    ends = {"best": (calls[-1], 1.0)}
    for name in (*panel.methods, *panel.more):
        at = spread(methods, name, calls, networks)
        if not at:
            continue
        look, x, found = _LOOKS[name][1], list(at), list(at.values())
        ax.fill_between(
            x, [one[low] for one in found], [one[high] for one in found], color=look.color, alpha=0.13, lw=0
        )
        ax.plot(x, [one["mean"] for one in found], **look.curve)
        if high != "worst":
            for place, worst in zip(x, (one["worst"] for one in found), strict=True):
                if worst <= _TOP:
                    ax.plot(place, worst, marker="_", ms=9, color=look.color)
                else:
                    ax.text(place, 0.95 * _TOP, f"↑ {worst:.0f}", color=look.color, va="top", ha="center", fontsize=8)
        ends[name] = (x[-1], found[-1]["mean"])
    ax.plot([calls[0], calls[-1]], [1, 1], color=GREY, lw=1.2, zorder=1)
    log_axes(ax, calls)
    width = max(calls[-1] / calls[0], 1.5)
    ax.set_xlim(calls[0] / width**0.06, calls[-1] * width**0.75)  # names stand at the right
    count = f"{len(networks)} network{'s' * (len(networks) > 1)}"
    band = "best to worst network" if len(networks) <= _FEW else "middle half; dash: worst"
    ax.set_title(f"{panel.title}, {count}\nband: {band}", loc="left")
    ax.set_xlabel("network calls")
    return ends


def _name_lines(ax: Any, ends: Mapping[str, tuple[int, float]]) -> None:
    """Names at the right ends of lines, apart from each other."""
    low, high = np.log(ax.get_ylim())
    first, last = np.log(ax.get_xlim())
    right = math.exp(math.log(max(x for x, _ in ends.values())) + 0.02 * (last - first))
    place = -math.inf
    for name, (_, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        place = max(math.log(y), place + 0.045 * (high - low))
        text, look = _LOOKS[name]
        ax.text(right, math.exp(place), text, color=look.color, va="center", fontsize=8)
