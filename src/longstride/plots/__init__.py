"""Plots: from tables, cards and runs to matplotlib figures in one style."""

from longstride.plots.paths import draw_paths, paths_of, principal_plane, states_of
from longstride.plots.steps import draw_errors, draw_search, draw_steps, errors_on_the_way
from longstride.plots.tables import draw_difference, draw_levels, draw_table, draw_tables

__all__ = [
    "draw_difference",
    "draw_errors",
    "draw_levels",
    "draw_paths",
    "draw_search",
    "draw_steps",
    "draw_table",
    "draw_tables",
    "errors_on_the_way",
    "paths_of",
    "principal_plane",
    "states_of",
]
