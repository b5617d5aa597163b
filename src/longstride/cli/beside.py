"""Cards side by side on a terminal of any width."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from longstride.book import CardBook, load_any
from longstride.errors import one_line
from longstride.history import load_history
from longstride.report.comparison import Line, Shown, differences, sections

__all__ = ["Beside", "load_shown"]

#: Least and greatest width of a card, width of the names of facts, and room between columns.
_LEAST, _MOST, _NAMES, _GAP = 17, 34, 20, 2


def load_shown(files: Sequence[Path]) -> list[Shown]:
    """The cards in files; a book stands for all of its cards.

    Args:
        files: Cards and books.

    Raises:
        CardError: a file cannot be read, or is neither.
    """
    found: list[Shown] = []
    for file, name in zip(files, _short_names(files), strict=True):
        loaded = load_any(file)
        if isinstance(loaded, CardBook):
            for entry in loaded.entries:
                scale = "" if entry.guidance is None else f", {entry.guidance:g}"
                found.append(Shown(f"{name}: {entry.nfe}{scale}", entry.card))
        else:
            found.append(Shown(name, loaded, load_history(file)))
    return found


def _short_names(files: Sequence[Path]) -> list[str]:
    """The ends of the paths that tell the files apart."""
    parts = [Path(os.path.abspath(file)).parts for file in files]
    long = max(map(len, parts))
    for length in range(1, long + 1):
        names = [os.path.join(*one[-length:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [one_line(name) for name in names]


class Beside:
    """Several cards: what differs is bright, what all have in common is dim, and so many stand together as fit.

    Args:
        shown: The cards.
    """

    def __init__(self, shown: Sequence[Shown]) -> None:
        self.shown, self.sections = shown, sections(shown)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        together = max(1, (options.max_width - _NAMES) // (_LEAST + _GAP))
        for begin in range(0, len(self.shown), together):
            yield from self._block(slice(begin, begin + together), options.max_width)
        for note in differences(self.shown):
            yield Text(f"! {note}", style="yellow")
        yield Text("The errors of each card were measured on held-out noise of its own.", style="dim")

    def _block(self, chosen: slice, width: int) -> Iterator[Table | Text]:
        """Some of the cards, with the names of all facts on the left."""
        cards = self.shown[chosen]
        each = min(_MOST, (width - _NAMES) // len(cards) - _GAP)
        yield _grid([[Text(""), *(Text(one.name, style="bold") for one in cards)]], each)
        for part in self.sections:
            yield Text(f"\n{part.title}", style="italic")
            yield _grid([_cells(line, chosen) for line in part.lines], each)
        yield Text()


def _grid(rows: Sequence[Sequence[Text]], each: int) -> Table:
    """Rows whose columns have the same widths in every grid."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 0, 0, _GAP))
    table.add_column(width=_NAMES)
    for _ in rows[0][1:]:
        table.add_column(width=each, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _cells(line: Line, chosen: slice) -> list[Text]:
    style = "" if line.differs else "dim"
    return [Text(one, style) for one in (line.name, *line.cells[chosen])]
