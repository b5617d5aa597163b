"""Drawings of tables as SVG: weights as a heatmap, what calibration changed, and the levels on the noise axis."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.evaluation.plots import pyplot
from longstride.explorer.tables import TableView

__all__ = ["levels_figure", "weights_figure"]

#: Up to so many network calls every weight is written into its cell.
_WRITTEN = 12
#: Inches of a cell, and of the margins around it.
_CELL, _MARGIN = 0.52, 0.75
_OURS, _BASE = "#c1121f", "#666666"


def weights_figure(view: TableView) -> str:
    """The weights of a table; with a base also those of the base, and the change, as a ``data:`` address.

    Blue cells are positive, red ones negative. Colours follow the square root of a weight, and saturate at the largest
    one of the table; those of the change have a scale of their own.
    """
    panels: list[tuple[str, Array]] = [(view.label, view.weights)]
    if view.base_weights is not None and view.change is not None:
        panels = [(view.base_label, view.base_weights), (view.label, view.weights), ("change", view.change)]
    calls = len(view.rows)
    cell = _CELL if calls <= _WRITTEN else _CELL * _WRITTEN / calls
    size = (len(panels) * (cell * (calls + 1) + _MARGIN), cell * calls + _MARGIN)
    plt = pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    largest = max(float(np.nanmax(np.abs(values))) for _, values in panels[:2])
    for ax, (title, values) in zip(axes[0], panels, strict=True):
        own = float(np.nanmax(np.abs(values))) if title == "change" else largest
        _heatmap(ax, values, own or 1.0, view)
        ax.set_title(_shortened(title, 12 * len(view.columns)), fontsize=9.5, loc="left", weight="bold")
    return _address(figure)


def _heatmap(ax: Any, values: Array, largest: float, view: TableView) -> None:
    shown = np.sign(values) * np.sqrt(np.abs(values) / largest)
    ax.imshow(shown, cmap="RdBu", vmin=-1.25, vmax=1.25, aspect="equal", interpolation="nearest")
    step = 1 if len(view.rows) <= 2 * _WRITTEN else 5
    ax.set_xticks(range(0, len(view.columns), step), view.columns[::step], fontsize=8)
    ax.set_yticks(range(0, len(view.rows), step), view.rows[::step], fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    if len(view.rows) > _WRITTEN:
        return
    for (k, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(shown[k, j]) > 0.8
            text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
            ax.text(j, k, text, ha="center", va="center", fontsize=7, color="white" if dark else "#222222")


def levels_figure(view: TableView) -> str:
    """The levels of a table on the noise axis, above those of its base, as a ``data:`` address.

    A level at pure noise or at none has no place on the axis, and is told beside it.
    """
    rows = [(view.label, view.ratios, _OURS, True)]
    if view.base_ratios is not None:
        rows.append((view.base_label, view.base_ratios, _BASE, False))
    plt = pyplot()
    figure, ax = plt.subplots(figsize=(7.4, 0.75 + 0.42 * len(rows)), layout="constrained")
    for n, (label, ratios, color, filled) in enumerate(rows):
        inner = ratios[np.isfinite(ratios) & (ratios > 0)]
        ax.plot(inner, [-n] * len(inner), "o-", color=color, mfc=color if filled else "white", ms=6, lw=1)
        ends = (" from pure noise" * bool(np.isinf(ratios).any())) + (" to zero" * bool((ratios == 0).any()))
        ax.annotate(
            _shortened(label, 40) + ends,
            (1, -n),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_ylim(0.5 - len(rows), 0.5)
    ax.set_yticks([])
    ax.set_xlabel("noise level σ/α, from noisy to clean", fontsize=8.5)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(True, axis="x", color="#e8e8e8", lw=0.6)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    return _address(figure)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _address(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.05)
    pyplot().close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
