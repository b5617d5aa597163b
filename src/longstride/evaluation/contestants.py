"""Who takes part in a comparison, and how samplers are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longstride.calibration.methods import METHODS
from longstride.calibration.rowwise.iia import PUBLISHED
from longstride.calibration.starts.universal import is_universal
from longstride.errors import InputError, unknown
from longstride.grid import LastLevel, spacing_of
from longstride.grid import grid as levels_on
from longstride.schedule import Schedule
from longstride.solvers import SOLVERS, VARIANTS, build, steps_for_nfe
from longstride.table import SolverTable

__all__ = [
    "CONTESTANTS",
    "PAPER",
    "Contestant",
    "base_table",
    "card_label",
    "contestant",
    "label",
    "paper",
    "spacing_of",
]


@dataclass(frozen=True)
class Contestant:
    """A sampler that can be built for any number of network calls.

    Attributes:
        name: In results, plots and tables.
        label: For people.
        solver: The classical solver.
        options: Options of the solver.
        method: Calibration method, or None for the classical solver as it is.
        settings: Settings of the method that differ from its defaults.
        base: Name of the contestant that it is compared with; None for a classical solver. A whole fit may start from
            another classical table: its card names that table, and its gate compares with it.
        guided: Whether it is meant for guided sampling only.
        grid: Grid that its paper uses it on, or None for the usual grid of the model.
    """

    name: str
    label: str
    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    guided: bool = False
    grid: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is fitted to where samples end, which needs the converged solutions of all calibration samples."""
        return self.method is not None and METHODS[self.method].whole


def _classical() -> dict[str, Contestant]:
    """Every classical solver and its forms."""
    return {
        name: Contestant(name, one.label, one.solver, one.options, grid=SOLVERS[one.solver].grid)
        for name, one in VARIANTS.items()
    }


def _published() -> dict[str, Contestant]:
    """Every published form of IIA on every solver that it is for."""
    found = {}
    for method, one in PUBLISHED.items():
        for solver in one.bases:
            single = len(one.bases) == 1
            name, text = (method, one.label) if single else (f"iia_{solver}", f"IIA-{SOLVERS[solver].label}")
            own = SOLVERS[solver].grid
            found[name] = Contestant(name, text, solver, method=method, base=solver, guided=one.guided, grid=own)
    return found


_WHOLE = Contestant("gauss_newton", "longstride", "unipc", {"order": 3}, method="gauss_newton", base="unipc3")
#: Every contestant by name.
CONTESTANTS: dict[str, Contestant] = {**_classical(), **_published(), _WHOLE.name: _WHOLE}
#: Contestants of the paper's tables, and UniPC-3 as what a user would otherwise take.
PAPER = (
    "ddim",
    "iia_ddim",
    "iia_ddim_cfg",
    "spndm",
    "iia_spndm",
    "ipndm",
    "iia_ipndm",
    "dpm_solver_2m",
    "iia_dpm_solver_2m",
    "dpmpp_2m",
    "iia_dpmpp_2m",
    "heun",
    "biia_edm",
    "iia_edm",
    "unipc3",
)


def paper(guided: bool) -> tuple[str, ...]:
    """Names of the paper's contestants, guided or not."""
    return tuple(name for name in PAPER if guided or not CONTESTANTS[name].guided)


def contestant(name: str) -> Contestant:
    """The contestant of that name.

    Raises:
        InputError: there is none.
    """
    if name not in CONTESTANTS:
        raise unknown("contestant", name, CONTESTANTS)
    return CONTESTANTS[name]


#: Samplers that are no contestants: the converged solution, and fits of benchmarks.
_OTHERS = {
    "teacher": "converged",
    "gauss_newton_full": "longstride, 6 steps",
    "global": "longstride, row by row",
}
#: What a card says of itself otherwise than a comparison does.
_IN_CARDS = {
    **{name: one.label for name, one in METHODS.items()},
    "given": "the given table",
    "filled": "the filled table",
}


def label(name: str) -> str:
    """How a comparison writes a sampler for people; an unknown name, such as a card's, stays as it is.

    >>> label("gauss_newton"), label("unipc3"), label("mine")
    ('longstride', 'UniPC-3', 'mine')
    """
    return CONTESTANTS[name].label if name in CONTESTANTS else _OTHERS.get(name, name)


def card_label(name: str) -> str:
    """How a card's method, its solver, or the start ``solver@grid`` of its fit is written for people.

    >>> card_label("gauss_newton"), card_label("unipc3@log_snr"), card_label("given")
    ('Gauss–Newton', 'UniPC-3 on log_snr', 'the given table')
    >>> card_label("0.5 std@universal")
    'universal table, 0.5 std'
    """
    solver, _, grid = name.partition("@")
    if is_universal(name):
        return f"universal table, {solver.removeprefix('longstride, ')}"
    text = _IN_CARDS.get(solver) or label(solver)
    return f"{text} on {grid}" if grid else text


def base_table(
    schedule: Schedule,
    solver: str,
    nfe: int,
    *,
    grid: str = "auto",
    final: LastLevel = "sigma_min",
    exactly: bool = True,
    **options: Any,
) -> SolverTable:
    """The classical solver that spends ``nfe`` calls on a grid of the schedule.

    Args:
        schedule: The model's.
        solver: Name of the solver.
        nfe: Network calls.
        grid: Name of the grid; see :func:`spacing_of`.
        final: Its last level.
        exactly: Whether to refuse a number of calls that the solver cannot spend exactly, such as 5 by a solver of two
            calls per step. If not, the solver spends the most calls that it can below the number.
        **options: The solver's options.

    Raises:
        InputError: the solver cannot spend so many calls.
    """
    for calls in range(nfe, nfe - 1 if exactly else 0, -1):
        try:
            steps = steps_for_nfe(solver, calls, final_zero=final == "zero", **options)
        except InputError:
            if exactly or calls == 1:
                raise
            continue
        levels = levels_on(spacing_of(grid, schedule), steps, schedule=schedule, final=final)
        return build(solver, levels, schedule=schedule, **options)
    raise InputError(f"nfe must be at least 1, got {nfe}")
