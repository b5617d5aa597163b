"""A table as arrays to look at: weights of the normal form, levels, and what calibration changed in both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.arrays import Array
from longstride.explorer.samplers import Sampler
from longstride.table import SolverTable

__all__ = ["TableView", "table_view"]


@dataclass(frozen=True, eq=False)
class TableView:
    """A sampler of K network calls in numbers.

    Attributes:
        label: The sampler, for people.
        weights: Weight of the first state and of every clean prediction in the states 1 … K, shape ``(K, K + 1)``; NaN
            where a state cannot read a prediction.
        ratios: ``sigma / alpha`` of the K + 1 levels; infinite at pure noise.
        base_label: The base, for people; empty without one.
        base_weights: The weights of the base, or None.
        base_ratios: The ratios of the base, or None.
    """

    label: str
    weights: Array
    ratios: Array
    base_label: str = ""
    base_weights: Array | None = None
    base_ratios: Array | None = None

    @property
    def change(self) -> Array | None:
        """Weights less those of the base; None without a base."""
        return None if self.base_weights is None else self.weights - self.base_weights

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return ["x0", *(f"D{j}" for j in range(self.weights.shape[0]))]

    @property
    def rows(self) -> list[str]:
        """Names of the rows."""
        return [f"x{k}" for k in range(1, self.weights.shape[0] + 1)]


def table_view(sampler: Sampler) -> TableView:
    """A sampler in numbers."""
    base = sampler.base
    return TableView(
        sampler.label,
        _weights(sampler.table),
        _ratios(sampler.table),
        sampler.base_label,
        None if base is None else _weights(base),
        None if base is None else _ratios(base),
    )


def _weights(table: SolverTable) -> Array:
    form = np.column_stack([table.a, table.b])[1:]
    below = np.arange(form.shape[1])[None] <= np.arange(1, len(form) + 1)[:, None]
    return np.where(below, form, np.nan)


def _ratios(table: SolverTable) -> Array:
    with np.errstate(divide="ignore"):
        ratios: Array = table.sigmas / table.alphas
    return ratios
