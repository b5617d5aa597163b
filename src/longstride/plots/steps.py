"""Errors on the way: of every step, as a card holds them or as they are measured, and of every step of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import squared_errors
from longstride.calibration.reference.trajectory import FINE, solve_dense
from longstride.errors import InputError
from longstride.plots.axis import NoiseAxis, ratios_of
from longstride.plots.paths import states_of
from longstride.plots.style import BASE, CURVES, OURS, Look, new_figure, styled
from longstride.reports import RowReport, Search
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["draw_errors", "draw_search", "draw_steps", "errors_on_the_way"]

_SIZE = (4.6, 2.9)


def errors_on_the_way(
    denoiser: DenoiserLike, noise: Tensor, tables: Mapping[str, SolverTable], *, steps: int = FINE
) -> dict[str, tuple[Array, Array]]:
    """How far the states of tables are from the converged solution through the same noise, at the end of every step.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: First states, shape ``(B, *)``.
        tables: Samplers between the same two levels, by name.
        steps: Number of fine steps of the converged solution; each costs one network call per sample.

    Returns:
        Of every table sigma / alpha at the end of every step, and the root-mean-square error there.

    Raises:
        InputError: no table, or tables that do not run between the same levels.
    """
    if not tables:
        raise InputError("no table was given: expected one or more by name")
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if not np.allclose(table.sigmas[[0, -1]], first.sigmas[[0, -1]], rtol=1e-6, atol=0):
            raise InputError(
                f"{name!r} runs from sigma {table.sigmas[0]:g} to {table.sigmas[-1]:g}, but another table from "
                f"{first.sigmas[0]:g} to {first.sigmas[-1]:g}: only tables between the same levels are compared"
            )
    solution = solve_dense(denoiser, noise, first, steps=steps)
    found = {}
    for name, table in tables.items():
        states, grid = states_of(denoiser, noise, table), list(table.grid[1:])
        clipped = np.clip(table.sigmas, solution.sigmas[-1], solution.sigmas[0])
        squares = [squared_errors(states[k], solution.at(float(clipped[k]))).mean() for k in grid]
        found[name] = (ratios_of(table)[grid], np.sqrt(np.array(squares)))
    return found


@styled
def draw_errors(errors: Mapping[str, tuple[Array, Array]], looks: Mapping[str, Look] | None = None) -> Any:
    """Errors at the end of every step against the level there, from noisy to clean; see :func:`errors_on_the_way`.

    Args:
        errors: Levels and errors by name.
        looks: How some of the curves are drawn.

    Returns:
        A matplotlib figure.
    """
    figure, axes = new_figure(*_SIZE)
    ax, axis = axes[0, 0], NoiseAxis.of([levels for levels, _ in errors.values()])
    for number, (name, (levels, values)) in enumerate(errors.items()):
        look = (looks or {}).get(name, CURVES[number % len(CURVES)])
        ax.plot(axis.places(levels), _positive(values), label=name, **look.curve)
    _finish(ax, "RMSE to the converged solution")
    axis.apply(ax)
    return figure


@styled
def draw_steps(steps: Sequence[RowReport]) -> Any:
    """Held-out errors of every step of a fit row by row, of the base row and of the row in use.

    A step whose fit was not accepted has an open marker: the base row is in use.

    Args:
        steps: Reports on a card.

    Returns:
        A matplotlib figure.
    """
    figure, axes = new_figure(*_SIZE)
    ax, numbers = axes[0, 0], np.arange(1, len(steps) + 1)
    base = _positive([one.held_out_base_error for one in steps])
    fitted = _positive([one.held_out_error if one.accepted else one.held_out_base_error for one in steps])
    kept = np.array([not one.accepted for one in steps])
    ax.plot(numbers, base, label="base", **BASE.curve)
    ax.plot(numbers, fitted, label="this card", **OURS.curve)
    if kept.any():
        ax.plot(numbers[kept], fitted[kept], ls="", marker="o", ms=8, c=OURS.color, mfc="white", label="base row kept")
    _finish(ax, "distance to the step's target")
    _whole(ax, "step", len(steps))
    return figure


@styled
def draw_search(search: Search) -> Any:
    """Errors of fitted and held-out samples after every step of a fit of everything together.

    Args:
        search: The course of the fit, on a card.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: the search made no steps.
    """
    if not search.iterations:
        raise InputError("this search made no steps: there is no course to draw")
    figure, axes = new_figure(*_SIZE)
    ax, numbers = axes[0, 0], range(len(search.iterations))
    ax.plot(numbers, _positive([one.held_out_rmse for one in search.iterations]), label="held out", **OURS.curve)
    ax.plot(numbers, _positive([one.rmse for one in search.iterations]), label="fitted", **BASE.curve)
    _finish(ax, "RMSE")
    _whole(ax, "step of the fit; 0: its start", len(search.iterations))
    return figure


def _positive(values: Any) -> Array:
    """The values; NaN, which is not drawn, in place of those that a logarithmic axis does not have."""
    found = np.asarray(values, np.float64)
    return np.where(found > 0, found, np.nan)


def _finish(ax: Any, name: str) -> None:
    """A logarithmic axis of errors, a grid and a legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(True)
    ax.set_ylabel(name)
    ax.legend()


def _whole(ax: Any, name: str, count: int) -> None:
    """Ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(min(max(count, 1), 10), integer=True))
    ax.set_xlabel(name)
