"""What a calibration method is: one object that knows its settings, what it needs, how it fits and who accepts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from longstride.calibration.samples import Samples
from longstride.errors import InputError, not_taken
from longstride.reports import EndReport, RowReport, Search
from longstride.table import SolverTable

__all__ = ["Fitted", "Method", "Settings", "configured", "described"]

#: Settings of a method: a frozen dataclass, which checks its values.
Settings = Any
#: Called with (steps done, steps in all).
Steps = Callable[[int, int], None]


@dataclass(frozen=True)
class Fitted:
    """What a method found.

    Attributes:
        table: The fitted table.
        base: The table that it must beat.
        rows: One report per row that was fitted by itself.
        search: How a fit of all rows together went.
    """

    table: SolverTable
    base: SolverTable
    rows: tuple[RowReport, ...] = ()
    search: Search | None = None


class Method(Protocol):
    """A calibration method. Adding a method is a class in a file and a line in ``longstride.calibration.methods``.

    Attributes:
        name: In cards and on the command line.
        label: For people.
        settings: Its settings, as they are if nothing else is said.
        solvers: Names of the base solvers that it is for, the usual one first; none: any solver.
        whole: Whether it needs the converged solution of all samples; otherwise of the held-out ones alone.
        many: Whether it takes further tables to start from, and makes books.
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
        """Samples that are fitted and held out by default."""

    def unit(self, settings: Settings) -> int:
        """Samples of a unit of work."""

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
        """The table to use, by held-out samples: the fitted one or its base."""


def configured(method: Method, solver: str | None, given: Mapping[str, Any]) -> Settings:
    """Settings of a method with some of its own replaced.

    Args:
        method: The method.
        solver: Name of the base solver; None: not yet known.
        given: Settings by name.

    Raises:
        InputError: the method has no such setting, or is not for that solver.
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
    return {
        key: getattr(value, "__name__", str(value)) if callable(value) else value
        for key, value in asdict(settings).items()
    }
