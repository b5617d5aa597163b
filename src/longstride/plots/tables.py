"""Tables as pictures: the weights of the normal form, and the levels on the noise axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.plots.axis import NoiseAxis, ratios_of
from longstride.plots.style import CURVES, INK, NEGATIVE, POSITIVE, RULE, new_figure, styled
from longstride.table import SolverTable

__all__ = ["draw_difference", "draw_levels", "draw_table", "draw_tables", "largest_weight"]

#: With more calls, cells hold no numbers, and are drawn as a raster.
_MOST_NUMBERS, _MOST_CELLS = 12, 40


def _normal_form(table: SolverTable) -> Array:
    """Weights of ``x_0`` and of every output in every state after the first, ``(K, K + 1)``; NaN where none can be."""
    form = np.column_stack([table.a, table.b])[1:]
    return np.where(np.tri(form.shape[0], form.shape[1], 1, dtype=bool), form, np.nan)


def largest_weight(*tables: SolverTable) -> float:
    """Largest absolute weight in the normal forms of the tables."""
    return max(float(np.nanmax(np.abs(_normal_form(table)))) for table in tables)


@styled
def draw_table(table: SolverTable, title: str = "", *, largest: float | None = None) -> Any:
    """The normal form of a table as a heatmap: blue and plain for positive weights, orange with a sign for negative.

    Args:
        table: The table.
        title: Headline; default: none.
        largest: The weight of the full colour, for heatmaps that are compared; default: the table's largest weight.

    Returns:
        A matplotlib figure.
    """
    form = _normal_form(table)
    figure, axes = new_figure(*_size(len(form)))
    _heatmap(axes[0, 0], form, title, largest_weight(table) if largest is None else largest)
    return figure


@styled
def draw_difference(table: SolverTable, base: SolverTable, title: str = "") -> Any:
    """What a table's normal form has more than its base's, as :func:`draw_table` on a colour scale of its own.

    Raises:
        InputError: the tables make different numbers of calls.
    """
    form = _difference(table, base)
    figure, axes = new_figure(*_size(len(form)))
    _heatmap(axes[0, 0], form, title, float(np.nanmax(np.abs(form))))
    return figure


@styled
def draw_tables(table: SolverTable, base: SolverTable, names: tuple[str, str] = ("calibrated", "base")) -> Any:
    """Heatmaps of a table and its base on one colour scale, and of their difference on its own.

    Args:
        table: The calibrated table.
        base: The table that it is compared with.
        names: What both are called.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: the tables make different numbers of calls.
    """
    difference, largest = _difference(table, base), largest_weight(table, base)
    width, height = _size(table.nfe)
    figure, axes = new_figure(3 * width, height, 1, 3)
    for ax, one, name in zip(axes[0], (table, base), names, strict=False):
        _heatmap(ax, _normal_form(one), name, largest)
    _heatmap(axes[0, 2], difference, f"{names[0]} − {names[1]}", float(np.nanmax(np.abs(difference))))
    return figure


def _difference(table: SolverTable, base: SolverTable) -> Array:
    if table.nfe != base.nfe:
        raise InputError(
            f"tables of {table.nfe} and {base.nfe} calls have no difference: compare tables of equal calls"
        )
    return _normal_form(table) - _normal_form(base)


def _size(calls: int) -> tuple[float, float]:
    """Width and height of a heatmap in inches."""
    side = min(4.6, 1.2 + 0.42 * min(calls, _MOST_NUMBERS))
    return side, 0.45 + 0.82 * (side - 0.2)


def _heatmap(ax: Any, form: Array, title: str, largest: float) -> None:
    """Draw weights as cells, with numbers where there is room; small weights are seen too, as roots are coloured."""
    from matplotlib.colors import LinearSegmentedColormap

    calls, room = len(form), len(form) <= _MOST_NUMBERS
    colours = LinearSegmentedColormap.from_list("weights", [NEGATIVE, "#ffffff", POSITIVE])
    share = form / largest if largest > 0 else 0.0 * form
    roots = np.ma.masked_invalid(np.sign(share) * np.sqrt(np.abs(share)))
    ax.pcolormesh(roots, cmap=colours, vmin=-1, vmax=1, edgecolor="white", lw=0.7, rasterized=calls > _MOST_CELLS)
    ax.invert_yaxis()
    ax.set_aspect("equal" if calls > _MOST_CELLS else "auto")
    if room:
        for (row, column), weight in np.ndenumerate(form):
            if math.isfinite(weight):
                colour = _readable_on(colours(0.5 + 0.5 * float(roots[row, column])))
                place, size = (column + 0.5, row + 0.5), 7 if calls <= 8 else 5.6
                ax.text(*place, _short(float(weight), calls), ha="center", va="center", fontsize=size, color=colour)
    elif calls <= _MOST_CELLS:  # the sign is seen in grey, too
        rows, columns = np.nonzero(np.nan_to_num(form) < 0)
        ax.plot(columns + 0.5, rows + 0.5, ls="", marker="_", ms=3, color=INK)
    step = 1 if room else -(-calls // 8)
    ax.set_xticks(np.arange(0, calls + 1, step) + 0.5, ["x0", *(f"D{j}" for j in range(calls))][::step])
    ax.set_yticks(np.arange(0, calls, step) + 0.5, [f"x{k}" for k in range(1, calls + 1)][::step])
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=7.5)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title(title, loc="left")


def _readable_on(colour: tuple[float, ...]) -> str:
    """Dark or white, whichever has the larger contrast on a colour (WCAG 2, relative luminance)."""

    def luminance(parts: Sequence[float]) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    dark = luminance([int(INK[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    here = luminance(colour)
    return INK if here / dark > 1.05 / here else "white"


def _short(weight: float, calls: int) -> str:
    if abs(weight) >= 100:
        return f"{weight:.0e}".replace("e+", "e").replace("e0", "e")
    text = f"{weight:.{3 if calls <= 8 and abs(weight) < 10 else 2}f}"
    return text.replace("-", "−") if float(text) else "0"


@styled
def draw_levels(tables: Mapping[str, SolverTable]) -> Any:
    """The levels of tables on a logarithmic axis of sigma / alpha, a line per table, from noisy to clean.

    Levels of the same number are joined between neighbours that make the same number of calls. States within a step
    have open markers. The levels 0 and infinity stand at the ends of the axis.

    Args:
        tables: The tables by the names that are drawn.

    Returns:
        A matplotlib figure.
    """
    figure, axes = new_figure(4.6, 0.85 + 0.36 * len(tables))
    ax, ratios, names = axes[0, 0], [ratios_of(table) for table in tables.values()], list(tables)
    axis = NoiseAxis.of(ratios)
    places = [axis.places(found) for found in ratios]
    for upper, (mine, theirs) in enumerate(itertools.pairwise(places)):
        if len(mine) == len(theirs):
            lines = [[upper] * len(mine), [upper + 1] * len(mine)]
            ax.plot(np.stack([mine, theirs]), lines, color=RULE, lw=0.8, zorder=0)
    for number, (table, at) in enumerate(zip(tables.values(), places, strict=True)):
        look, steps = CURVES[number % len(CURVES)], np.isin(np.arange(table.nfe + 1), table.grid)
        ax.plot(at, np.full_like(at, number), color=look.color, lw=0.9)
        for chosen, fill in ((steps, look.color), (~steps, "white")):
            ax.plot(at[chosen], np.full(chosen.sum(), number), ls="", marker=look.marker, ms=6, c=look.color, mfc=fill)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    axis.apply(ax)
    return figure
