"""Who takes part in a comparison, and how samplers are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longstride.errors import InputError, unknown
from longstride.grid import Final, grid, spacing_of
from longstride.schedule import Schedule
from longstride.solvers import build, steps_for_nfe
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
        guided: Whether it is meant for guided sampling only.
        spacing: Grid that its paper uses it on, or None for the usual grid of the model.
    """

    name: str
    label: str
    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    guided: bool = False
    spacing: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is fitted to where samples end, which needs the converged solutions of all calibration samples."""
        return self.method == "gauss_newton"

    @property
    def base(self) -> str | None:
        """Name of its solver without calibration, which it is compared with; None for a classical solver.

        A whole fit may start from another classical table. Its card names that table, and its gate compares with it.
        """
        return None if self.method is None else self.solver


_ALL = (
    Contestant("ddim", "DDIM", "ddim"),
    Contestant("iia_ddim", "IIA-DDIM", "ddim", method="iia_ddim"),
    Contestant("iia_ddim_cfg", "IIA-DDIM, one β", "ddim", method="iia_ddim_cfg", guided=True),
    Contestant("spndm", "S-PNDM", "spndm"),
    Contestant("iia_spndm", "IIA-SPNDM", "spndm", method="iia_spndm"),
    Contestant("ipndm", "iPNDM", "ipndm"),
    Contestant("iia_ipndm", "IIA-IPNDM", "ipndm", method="iia_ipndm"),
    Contestant("dpm_solver_2m", "DPM-Solver 2M", "dpm_solver_2m"),
    Contestant("iia_dpm_solver_2m", "IIA-DPM-Solver 2M", "dpm_solver_2m", method="iia_dpm_solver"),
    Contestant("dpmpp_2m", "DPM-Solver++ 2M", "dpmpp_2m"),
    Contestant("iia_dpmpp_2m", "IIA-DPM-Solver++ 2M", "dpmpp_2m", method="iia_dpm_solver"),
    Contestant("dpmpp_2s", "DPM-Solver++ 2S", "dpmpp_2s"),
    Contestant("iia_dpmpp_2s", "IIA-DPM-Solver++ 2S", "dpmpp_2s", method="iia_dpm_solver"),
    Contestant("dpmpp_3m", "DPM-Solver++ 3M", "dpmpp_3m"),
    Contestant("iia_dpmpp_3m", "IIA-DPM-Solver++ 3M", "dpmpp_3m", method="iia_dpm_solver"),
    Contestant("heun", "EDM (Heun)", "heun", spacing="karras"),
    Contestant("biia_edm", "BIIA-EDM", "heun", method="biia_edm", spacing="karras"),
    Contestant("iia_edm", "IIA-EDM", "heun", method="iia_edm", spacing="karras"),
    Contestant("unipc", "UniPC-3", "unipc", {"order": 3}),
    Contestant("deis", "DEIS-3", "deis", {"order": 3}),
    Contestant("gauss_newton", "longstride", "unipc", {"order": 3}, method="gauss_newton"),
)
#: Every contestant by name.
CONTESTANTS: dict[str, Contestant] = {one.name: one for one in _ALL}
#: Contestants of the paper's tables, and UniPC-3 as what a user would otherwise take.
PAPER = tuple(
    name
    for name in CONTESTANTS
    if name not in ("dpmpp_2s", "iia_dpmpp_2s", "dpmpp_3m", "iia_dpmpp_3m", "deis", "gauss_newton")
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


#: Samplers that are no contestants: the converged solution, the classical solvers of searches, fits of benchmarks.
_OTHERS = {
    "teacher": "converged",
    "ipndm2": "iPNDM-2",
    "ipndm3": "iPNDM-3",
    "ipndm4": "iPNDM-4",
    "deis3": "DEIS-3",
    "unipc2": "UniPC-2",
    "unipc3": "UniPC-3",
    "gauss_newton_full": "longstride, 6 steps",
    "global": "longstride, row by row",
}
#: What a card says of itself otherwise than a comparison does.
_IN_CARDS = {
    "heun": "Heun",
    "gauss_newton": "Gauss–Newton",
    "global": "Gauss–Newton, row by row",
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
    """
    solver, _, spacing = name.partition("@")
    text = _IN_CARDS.get(solver) or label(solver)
    return f"{text} on {spacing}" if spacing else text


def base_table(
    schedule: Schedule,
    solver: str,
    nfe: int,
    *,
    spacing: str = "auto",
    final: Final = "sigma_min",
    exactly: bool = True,
    **options: Any,
) -> SolverTable:
    """The classical solver that spends ``nfe`` calls on a grid of the schedule.

    Args:
        schedule: The model's.
        solver: Name of the solver.
        nfe: Network calls.
        spacing: Name of the grid; see :func:`spacing_of`.
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
        levels = grid(spacing_of(spacing, schedule), steps, schedule=schedule, final=final)
        return build(solver, levels, schedule=schedule, **options)
    raise InputError(f"nfe must be at least 1, got {nfe}")
