"""Drawings of a sampler's table as addresses of pictures: its weights, what calibration changed, and its levels."""

from __future__ import annotations

import base64
import io
from typing import Any

from longstride.explorer.samplers import Sampler
from longstride.plots import draw_levels, draw_table, draw_tables
from longstride.plots.style import styled

__all__ = ["levels_figure", "weights_figure"]

#: Longest name in a drawing.
_LONGEST = 40


def weights_figure(sampler: Sampler) -> str:
    """The weights of a table; with a base also those of the base, and their difference, as a ``data:`` address."""
    if sampler.base is None:
        return _address(draw_table(sampler.table, _shortened(sampler.label)))
    return _address(draw_tables(sampler.table, sampler.base, ("calibrated", "base")))


def levels_figure(sampler: Sampler) -> str:
    """The levels of a table on the noise axis, above those of its base, as a ``data:`` address."""
    base = {} if sampler.base is None else {"base": sampler.base}
    return _address(draw_levels({"calibrated" if base else _shortened(sampler.label): sampler.table, **base}))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@styled
def _address(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
