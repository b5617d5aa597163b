"""The one style of all drawings, and how a drawing becomes a file or a part of a page.

Colour, marker and dash tell curves apart, and the width of the line tells ours from the others. So grey print and
colour-blind readers lose nothing: the colours differ in lightness, too (after Okabe and Ito).

Figures are made without ``pyplot``. Nothing needs a screen or is kept open, and a notebook keeps its own settings.

References:
    Okabe & Ito, Color Universal Design, 2008. https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from longstride.files import write_atomically

__all__ = [
    "ACCENT",
    "BASE",
    "CURVES",
    "FAINT",
    "GREY",
    "INK",
    "NEGATIVE",
    "OURS",
    "POSITIVE",
    "RULE",
    "Look",
    "blank_figure",
    "inline_svg",
    "log_axes",
    "new_figure",
    "save_figure",
    "styled",
]

P = ParamSpec("P")
R = TypeVar("R")

ACCENT, INK, GREY, RULE = "#0b6e5f", "#3c4043", "#80868b", "#c8ccd0"
#: Weights above and below zero.
POSITIVE, NEGATIVE = "#1b6ca8", "#c8590a"

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names of files and samplers are drawn as they are
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "figure.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A function that draws, in the one style whatever the settings of matplotlib are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        from matplotlib import style

        with style.context(["default", _STYLE]):
            return draw(*args, **kwargs)

    return drawn


def blank_figure(width: float, height: float, **options: Any) -> Any:
    """A figure without axes, so many inches wide and high; ``options`` of ``matplotlib.figure.Figure``."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes ``(rows, columns)``.

    Args:
        width: In inches.
        height: In inches.
        rows: Rows of axes.
        columns: Columns of axes.
        **options: Of ``Figure.subplots``.
    """
    figure = blank_figure(width, height, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@dataclass(frozen=True)
class Look:
    """How a curve is drawn.

    Attributes:
        color: Its colour.
        marker: Marker of matplotlib.
        filled: Whether markers are filled.
        dash: Lengths of dashes and gaps in units of the line; empty: solid.
        width: Width of the line in points.
    """

    color: str
    marker: str
    filled: bool
    dash: tuple[float, ...] = ()
    width: float = 1.4

    @property
    def line(self) -> dict[str, Any]:
        """Options of ``Axes.plot`` for the line."""
        return {"color": self.color, "ls": (0, self.dash) if self.dash else "-", "lw": self.width}

    @property
    def points(self) -> dict[str, Any]:
        """Options of ``Axes.plot`` for the markers."""
        return {"color": self.color, "marker": self.marker, "mfc": self.color if self.filled else "white"}

    @property
    def curve(self) -> dict[str, Any]:
        """Options of ``Axes.plot`` for both."""
        return self.line | self.points


#: A calibrated table, the classical table that it is compared with, and what only stands in the background.
OURS = Look(ACCENT, "o", True, width=2.0)
BASE = Look(INK, "s", False, (4, 2))
FAINT = Look("#b0b4b8", "x", True, (1, 2))
#: Curves of equal rank, in this order and from the start again.
CURVES = (
    OURS,
    Look("#d55e00", "s", True, (6, 1.5)),
    Look("#0072b2", "^", True, (3, 1.2, 1, 1.2)),
    Look("#c98bb0", "D", True, (1.2, 1.2)),
    Look("#8a6d00", "v", False, (8, 2, 1, 2)),
    Look("#56b4e9", "P", True, (2, 2)),
)


def log_axes(ax: Any, nfes: Sequence[int]) -> None:
    """Log axes with plain numbers; ticks of x stand at ``nfes`` if they do not meet, ticks of y at 1, 2, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = [nfe for n, nfe in enumerate(nfes) if n == 0 or nfe >= 1.19 * nfes[n - 1]]
    ax.set_xticks(ticks, [str(nfe) for nfe in ticks])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(True, which="major")


@styled
def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


@styled
def inline_svg(figure: Any, name: str, titles: Mapping[str, str] | None = None) -> str:
    """A drawing that may stand inside a page: no head, ids of its own, titles, and the width of its place.

    Args:
        figure: The drawing. The page has an element with the id ``NAME-caption``.
        name: First part of every id in the drawing, which no other drawing of the page may have.
        titles: What browsers show of a part, by the ``gid`` of the part.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's fonts are used
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    own = re.compile(r'(id="|url\(#|href="#)(?!' + re.escape(name) + "-)")
    svg = own.sub(rf"\g<1>{name}-", svg)
    for place, title in (titles or {}).items():
        svg = svg.replace(f'<g id="{place}">', f'<g id="{place}" class="point"><title>{escape(title)}</title>')
    return svg.replace("<svg", f'<svg role="img" aria-labelledby="{name}-caption"', 1)
