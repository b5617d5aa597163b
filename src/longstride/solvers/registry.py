"""Declarations of solvers: builder, label, forms that calibrations start from, and grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from longstride.table import SolverTable

__all__ = ["Solver", "Variant"]


@dataclass(frozen=True)
class Variant:
    """A solver with options, under a name of its own.

    Attributes:
        name: Name in cards, results and plots.
        label: Label for people.
        solver: Name of the solver.
        options: Options of the solver.
        start: Whether calibrations start from the variant, which then makes one network call per step.
    """

    name: str
    label: str
    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    start: bool = False


@dataclass(frozen=True)
class Solver:
    """A solver: a call with nodes and options builds a table.

    Attributes:
        builder: From :class:`~longstride.Nodes` and options to a table.
        label: Label for people.
        starts: Options of the variants that calibrations start from, by name; each makes one network call per step.
        grid: Name of the grid that its paper uses it on, or None for the model's usual grid.
        own_levels: Whether it visits levels of its own between the two ends of a grid, with one network call per step.
    """

    builder: Callable[..., SolverTable]
    label: str
    starts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: str | None = None
    own_levels: bool = False

    def __call__(self, *args: Any, **options: Any) -> SolverTable:
        return self.builder(*args, **options)

    def variants(self, solver: str) -> dict[str, Variant]:
        """The variants that calibrations start from, by name.

        Args:
            solver: Name of this solver.
        """
        label = self.label
        labels = {
            name: f"{label}-{options['order']}" if "order" in options else label
            for name, options in self.starts.items()
        }
        return {name: Variant(name, labels[name], solver, options, True) for name, options in self.starts.items()}
