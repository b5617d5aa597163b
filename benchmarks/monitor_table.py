"""What the monitor saw, for its page: tables, and curves of caught faults against false alarms."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table
from longstride.plots.style import CURVES, GREY, new_figure, save_figure, styled

__all__ = ["draw_monitor", "monitor_sections"]

_NAMES = {
    "hsc32": "galaxies hsc32",
    "digits": "digits, guided",
    "garments_flow": "garments_flow",
    "garments_guided": "garments, guided",
}
#: Faults that make other pictures from the same noise.
_OTHER = ("one class", "half of the classes")
#: Curves of a panel: those of the faults that are neither always nor never caught.
_MOST = 5


def monitor_sections(file: Path) -> dict[str, Callable[[], str]]:
    """What can be said of the results file, by the names of its markers."""
    return {
        "monitor:faults": partial(_faults, file),
        "monitor:clean": partial(_clean, file),
        "monitor:partial": partial(_partial, file),
        "monitor:missed": partial(_missed, file),
    }


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share in (0, 1) or share < 0.9995 else f"{100 * share:.2f} %"


def _faults(file: Path) -> str:
    found = _read(file)
    networks = found["networks"]
    names = list(dict.fromkeys(label for one in networks.values() for label in one["faults"]))
    rows = []
    for name in names:
        cells = []
        for one in networks.values():
            fault = one["faults"].get(name)
            if fault is None:
                cells.append("–")
            elif fault["non_finite"] == 1:
                cells.append("all fall back")
            else:
                cells.append(f"{_percent(fault['window'])} ({_percent(fault['sample'])})")
        rows.append((name, *cells))
    table = markdown_table(("fault", *(_NAMES[name] for name in networks)), rows)
    where = "; ".join(
        f"{_NAMES[name]} at {one['nfe']} calls, {one['samples']} samples per fault" for name, one in networks.items()
    )
    return f"{table}\n\n({where}; {found['faulty_windows']:,} windows of {found['window']} resampled from them)"


def _clean(file: Path) -> str:
    found = _read(file)
    head = (
        "network",
        "clean runs on the card",
        "fresh samples",
        "windows with an alarm",
        "by shift",
        "by spread",
        "samples with an alarm",
        "alarms of a stream",
    )
    rows = []
    for name, one in found["networks"].items():
        alarms, stream = one["false_alarms"], one["stream"]
        rows.append(
            (
                _NAMES[name],
                one["clean_runs"],
                f"{one['clean_samples']:,}",
                *(_percent(alarms[kind]) for kind in ("window", "shift", "spread", "sample")),
                f"{stream['drift_alarms']} in {stream['samples']:,} samples",
            )
        )
    return markdown_table(head, rows) + f"\n\n({found['clean_windows']:,} windows, resampled from the fresh samples)"


def _missed(file: Path) -> str:
    found = _read(file)
    rows = []
    for name, one in found["networks"].items():
        for label, fault in one["faults"].items():
            if fault.get("until") is None:
                continue
            until = fault["until"]["median"]
            rows.append(
                (
                    _NAMES[name],
                    label,
                    _percent(fault["window"]),
                    "–" if label in _OTHER else f"{fault['moved']:.1f}",
                    "–" if until >= found["longest"] else f"{until:,.0f}",
                )
            )
    head = ("network", "fault", "windows caught", "samples moved, in the table's own RMSE", "samples until an alarm")
    note = (
        "faults of which fewer than 99 % of the windows are caught; samples moved: distance to the samples without the "
        "fault from the same noise, –: these are of other classes; until an alarm: of a window or the stream, –: none "
        f"in {found['longest']:,} samples"
    )
    return f"{markdown_table(head, rows)}\n\n({note})"


def _partial(file: Path) -> str:
    found = _read(file)
    parts = list(
        dict.fromkeys(part for one in found["networks"].values() for at in one["partial"].values() for part in at)
    )
    rows = []
    for name, one in found["networks"].items():
        for label, at in one["partial"].items():
            cells = (
                "–" if at[part]["median"] >= found["longest"] else f"{at[part]['median']:,.0f} ({at[part]['most']:,})"
                for part in parts
            )
            rows.append((_NAMES[name], label, *cells))
    head = ("network", "fault", *(f"{100 * float(part):g} % of the requests" for part in parts))
    note = f"samples until the first alarm of a window or the stream: median (most) of {found['streams']} streams"
    return (
        f"{markdown_table(head, rows)}\n\n({note}; –: more than half of them have none in {found['longest']:,} samples)"
    )


def _from_half(faults: dict[str, Any], label: str) -> float:
    curve: list[float] = faults[label]["curve"]
    return abs(sum(curve) / len(curve) - 0.5)


@styled
def draw_monitor(results: Path, pictures: Path) -> list[Path]:
    """Draw the curves, if there are results.

    Args:
        results: Folder of the results files.
        pictures: Where the plot goes.
    """
    file = results / "monitor.json"
    if not file.exists():
        return []
    found = _read(file)
    networks = found["networks"]
    figure, axes = new_figure(2.7 * len(networks), 2.9, 1, len(networks), sharey=True)
    for ax, (name, one) in zip(axes[0], networks.items(), strict=True):
        clean = [max(share, 0.5 / found["clean_windows"]) for share in one["curve"]]
        between = sorted(one["faults"], key=partial(_from_half, one["faults"]))[:_MOST]
        for label, look in zip(between, CURVES, strict=False):
            ax.plot(clean, one["faults"][label]["curve"], label=label, **look.line)
        ax.axvline(found["declared"], color=GREY, lw=0.8, ls=(0, (4, 2)), zorder=0)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda share, _: f"{share:g}")
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(_NAMES[name])
        ax.set_xlabel("false alarms")
        ax.legend(loc="best", fontsize=7)
    axes[0][0].set_ylabel(f"caught windows of {found['window']}")
    path = pictures / "monitor.png"
    pictures.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    return [path]
