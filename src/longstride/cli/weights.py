"""The weights of a card on a terminal: the formula of every step, and the normal form as colours."""

from __future__ import annotations

import math

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from longstride.arrays import Array
from longstride.card import Card
from longstride.report.formula import formula

__all__ = ["Heatmap", "formulas"]

#: Width of a weight, and of the names of states.
_CELL, _NAME = 8, 6
#: Colours of the largest weights of both signs.
_POSITIVE, _NEGATIVE = (80, 150, 235), (240, 145, 70)


def formulas(card: Card) -> Table:
    """One line per row: the state it makes, from earlier states ``x`` and clean predictions ``D``."""
    solver = card.table
    table = Table(title="formulas", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("sigma", "", "state"):
        table.add_column(name, justify="right" if name == "sigma" else "left", no_wrap=name != "state")
    for k, row in enumerate(solver.rows, start=1):
        table.add_row(f"{solver.sigmas[k]:.4g}", f"x{k} =", formula(row))
    return table


class Heatmap:
    """The normal form as colours: blue for positive weights, orange for negative ones.

    Columns that do not fit into the width of the terminal stand below.

    Args:
        card: The card.
    """

    def __init__(self, card: Card) -> None:
        self.form = np.column_stack([card.table.a, card.table.b])[1:]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("normal form: weight of x0 and of every clean prediction D in each state", style="italic")
        names = ["x0", *(f"D{j}" for j in range(len(self.form)))]
        together = max(1, (options.max_width - _NAME) // _CELL)
        for begin in range(0, len(names), together):
            chosen = slice(begin, begin + together)
            if begin:
                yield Text()
            yield Text(" " * _NAME + "".join(f"{name:>{_CELL}}" for name in names[chosen]))
            for k in range(max(1, begin), len(self.form) + 1):
                yield self._line(k, self.form[k - 1, chosen], begin)

    def _line(self, k: int, weights: Array, begin: int) -> Text:
        line, largest = Text(f"x{k:<{_NAME - 1}}"), float(np.abs(self.form).max())
        for weight in weights[: k + 1 - begin].tolist():
            share = math.sqrt(abs(weight) / largest) if largest > 0 else 0.0
            colour = _POSITIVE if weight >= 0 else _NEGATIVE
            mixed = ",".join(str(round(255 + share * (part - 255))) for part in colour)
            line.append(f"{_written(weight):>{_CELL}}", style=f"black on rgb({mixed})")
        return line


def _written(weight: float) -> str:
    """A weight that leaves a space in its cell."""
    text = f"{weight:.3f}"
    return text if len(text) < _CELL else f"{weight:.0e}"
