"""Error and Fréchet distance against network calls, as SVG inside the page.

Colour, marker and dash tell curves apart, so grey print and colour-blind readers lose nothing. Every point has its
numbers in a title, which browsers show without scripts. Names of samplers stand in the page and not in the drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from longstride.evaluation.bootstrap import Interval
from longstride.plots.style import BASE, GREY, INK, OURS, Look, inline_svg, log_axes, new_figure, styled
from longstride.report.language import Language
from longstride.report.numbers import Numbers
from longstride.report.words import label_of

__all__ = ["Series", "curve", "marker_of", "series_of"]


_TODAY = Look(INK, "D", True, (1.2, 1.6))
_OTHERS = (
    Look(GREY, "^", False, (3, 1.5, 1, 1.5)),
    Look(GREY, "x", True, (2, 2)),
    Look(GREY, "v", True, (6, 2, 1, 2)),
    Look(GREY, "P", False, (1, 3)),
)


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        look: How it is drawn.
        points: The numbers at every number of calls, rising.
    """

    look: Look
    points: tuple[Numbers, ...]


def series_of(found: Sequence[Numbers], today: tuple[str, int]) -> list[Series]:
    """A curve for every name, ours first, then the best classical table, then today's sampler, then the others."""
    names = dict.fromkeys(one.sampler.name for one in found)
    order = {"calibrated": 0, "best_classical": 1, today[0]: 2}
    others = iter(_OTHERS * len(names))
    series = []
    for name in sorted(names, key=lambda name: order.get(name, 3)):
        points = sorted((one for one in found if one.sampler.name == name), key=lambda one: one.sampler.calls)
        look = (OURS, BASE, _TODAY)[order[name]] if name in order else next(others)
        series.append(Series(look, tuple(points)))
    return series


@styled
def curve(
    name: str,
    series: Sequence[Series],
    value: Callable[[Numbers], Interval | None],
    language: Language,
    level: float | None,
) -> str:
    """An SVG element with one curve per series on log axes.

    Args:
        name: First part of every id in the drawing, which no other drawing of the page may have.
        series: The curves.
        value: What is drawn of the numbers; None: nothing.
        language: How numbers are written.
        level: Where a thin line marks today's value; None: nowhere.
    """
    titles: dict[str, str] = {}
    figure, ((axes,),) = new_figure(5.6, 3.3)
    if level is not None:
        axes.axhline(level, color=INK, lw=0.8, zorder=0)
    for number, one in reversed(list(enumerate(series))):
        _draw(axes, f"{name}-s{number}", one, value, language, titles)
    log_axes(axes, sorted({point.sampler.calls for one in series for point in one.points}))
    axes.yaxis.set_major_formatter(lambda y, _: language.number(y, 1) if y < 1 else language.whole(y))
    axes.tick_params(labelsize=10)
    return inline_svg(figure, name, titles)


def _draw(
    axes: Any,
    place: str,
    one: Series,
    value: Callable[[Numbers], Interval | None],
    language: Language,
    titles: dict[str, str],
) -> None:
    """Draw a curve, its intervals and its points, each a group with an id of its own."""
    look, plot = one.look, axes.plot
    shown = [(point.sampler.calls, found) for point in one.points if (found := value(point)) is not None]
    plot([x for x, _ in shown], [y.value for _, y in shown], gid=f"{place}-l", **look.line)
    for x, y in shown:
        if y.low is not None and y.high is not None:
            low = max(y.low, 0.05 * y.value)
            plot([x, x], [low, y.high], color=look.color, lw=1, gid=f"{place}-i{x}")
        plot([x], [y.value], ms=6, ls="", gid=f"{place}-p{x}", **look.points)
        calls = language.text("{calls} calls", calls=x)
        titles[f"{place}-p{x}"] = f"{label_of(one.points[0].sampler, language)}, {calls}: {language.interval(y)}"


def marker_of(look: Look) -> str:
    """The marker of a curve in the legend, whose middle is at (17, 6)."""
    fill = look.color if look.filled else "white"
    style = f'fill="{fill}" stroke="{look.color}" stroke-width="1.2"'
    shapes = {
        "o": f'<circle cx="17" cy="6" r="3.6" {style}/>',
        "s": f'<rect x="13.6" y="2.6" width="6.8" height="6.8" {style}/>',
        "D": f'<path d="M17 2L21 6L17 10L13 6Z" {style}/>',
        "^": f'<path d="M17 2L21 9.5H13Z" {style}/>',
        "v": f'<path d="M17 10L21 2.5H13Z" {style}/>',
        "x": f'<path d="M13.5 2.5L20.5 9.5M20.5 2.5L13.5 9.5" {style}/>',
        "P": f'<path d="M17 2V10M13 6H21" {style}/>',
    }
    return shapes[look.marker]
