"""The protocol of calibration methods: settings, needs, fit and gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from longstride.calibration.samples import Samples
from longstride.errors import InputError, not_taken
from longstride.journal import digest
from longstride.reports import EndReport, RowReport, Search
from longstride.table import SolverTable

__all__ = ["Fitted", "Method", "Settings", "as_data", "configured", "described", "name_of", "probed"]

#: Settings of a method: a frozen dataclass, which checks its values.
Settings = Any
#: Called with (steps done, steps in all).
Steps = Callable[[int, int], None]


@dataclass(frozen=True)
class Fitted:
    """Result of a method's fit.

    Attributes:
        table: The fitted table.
        base: The table that the fitted table must beat.
        rows: One report per row that was fitted by itself.
        search: Course of a fit of all rows together.
    """

    table: SolverTable
    base: SolverTable
    rows: tuple[RowReport, ...] = ()
    search: Search | None = None


class Method(Protocol):
    """A calibration method. To add a method, write a class, and add a line to ``longstride.calibration.methods``.

    Attributes:
        name: Name in cards and on the command line.
        label: Label for people.
        settings: Default settings. Settings with a method ``guarding``, which returns a
            :class:`~longstride.calibration.acceptance.guarding.Guarding`, ask for a guard.
        solvers: Names of the base solvers that the method is for, the usual solver first; empty: any solver.
        whole: Whether the method needs the reference solution of all samples, and not of the held-out samples alone.
        many: Whether the method takes further tables to start from.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def solvers(self) -> tuple[str, ...]: ...
    @property
    def whole(self) -> bool: ...
    @property
    def many(self) -> bool: ...

    def counts(self, nfe: int) -> tuple[int, int]:
        """Numbers of samples that are fitted and held out by default."""

    def unit(self, settings: Settings) -> int:
        """Number of samples of a unit of work."""

    def cost(self, nfe: int, fitted: int, held_out: int, settings: Settings, per_call: int) -> str:
        """Network calls in samples at most, in words; empty if there is no bound. A guided call counts ``per_call``."""

    def fit(
        self,
        samples: Samples,
        table: SolverTable,
        settings: Settings,
        starts: Mapping[str, SolverTable],
        progress: Steps,
    ) -> Fitted:
        """Fit ``table``."""

    def judge(self, samples: Samples, found: Fitted, settings: Settings) -> tuple[SolverTable, EndReport]:
        """The table to use, by held-out samples: the fitted table or its base."""


def configured(method: Method, solver: str | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a method, some of them replaced.

    Args:
        method: The method.
        solver: Name of the base solver; None: not yet known.
        given: New settings by name.

    Raises:
        InputError: the method has no such setting, or is not for this solver.
    """
    if solver is not None and method.solvers and solver not in method.solvers:
        bases = ", ".join(method.solvers)
        raise InputError(f"{method.name} is for the bases {bases}, not for {solver!r}; method 'iia' takes any")
    try:
        return replace(method.settings, **given)
    except TypeError as error:
        raise not_taken(f"method {method.name!r}", error) from None


def described(settings: Settings) -> dict[str, Any]:
    """Settings as plain data, for a card: functions by their names."""
    return as_data({one.name: getattr(settings, one.name) for one in fields(settings)})


def as_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as plain data: functions by their names."""
    return {key: name_of(value) if callable(value) else value for key, value in values.items()}


def name_of(function: object) -> str:
    """Name of a function, or of the class of a callable object."""
    return str(getattr(function, "__name__", type(function).__name__))


def probed(settings: Settings, samples: Tensor) -> dict[str, str]:
    """Digests of what functions among settings return for some samples ``(b, *)``: a name alone does not tell them."""
    functions = {one.name: getattr(settings, one.name) for one in fields(settings)}
    with torch.inference_mode():
        return {name: digest(function(samples)) for name, function in functions.items() if callable(function)}
