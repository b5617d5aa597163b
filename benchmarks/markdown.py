"""Tables in Markdown, and names of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["markdown_table", "number", "slug_of"]


def markdown_table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table of a head and rows, whose cells are written as they print."""
    first = list(head)
    lines = ["| " + " | ".join(map(str, first)) + " |", "|" + "---|" * len(first)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def number(value: float) -> str:
    """A measured number as tables show it."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def slug_of(model: str, guidance: float | None = None) -> str:
    """Name of the files of a model in a setting."""
    name = "".join(c if c.isalnum() else "_" for c in Path(model).name)
    return name if guidance is None else f"{name}_guided_{guidance:g}".replace(".", "_")
