"""Every solver, one file per paper: a builder turns grid levels into a :class:`~longstride.SolverTable`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from longstride.errors import InputError, not_taken, unknown
from longstride.nodes import Nodes
from longstride.schedule import Schedule
from longstride.solvers.adams import ipndm, pndm, spndm
from longstride.solvers.ddim import ddim
from longstride.solvers.deis import deis
from longstride.solvers.dpm_multistep import dpm_solver_2m, dpm_solver_3m, dpmpp_2m, dpmpp_3m
from longstride.solvers.dpm_singlestep import dpm_solver_2, dpm_solver_3, dpmpp_2s
from longstride.solvers.heun import heun
from longstride.solvers.registry import Solver, Variant
from longstride.solvers.unipc import unipc
from longstride.solvers.universal import longstride
from longstride.table import SolverTable

__all__ = [
    "CLASSICAL_SOLVERS",
    "SOLVERS",
    "VARIANTS",
    "Solver",
    "Variant",
    "build",
    "classical_solvers",
    "steps_for_nfe",
]

#: Every solver by name. To add a solver, write a builder and add an entry here.
SOLVERS: dict[str, Solver] = {
    "ddim": Solver(ddim, "DDIM", starts={"ddim": {}}),
    "spndm": Solver(spndm, "S-PNDM"),
    "pndm": Solver(pndm, "PNDM"),
    "ipndm": Solver(ipndm, "iPNDM", starts={f"ipndm{order}": {"order": order} for order in (2, 3, 4)}),
    "deis": Solver(deis, "DEIS", starts={"deis3": {"order": 3}}),
    "heun": Solver(heun, "Heun", grid="karras"),
    "dpm_solver_2": Solver(dpm_solver_2, "DPM-Solver-2"),
    "dpm_solver_3": Solver(dpm_solver_3, "DPM-Solver-3"),
    "dpm_solver_2m": Solver(dpm_solver_2m, "DPM-Solver 2M"),
    "dpm_solver_3m": Solver(dpm_solver_3m, "DPM-Solver 3M"),
    "dpmpp_2s": Solver(dpmpp_2s, "DPM-Solver++ 2S"),
    "dpmpp_2m": Solver(dpmpp_2m, "DPM-Solver++ 2M", starts={"dpmpp_2m": {}}),
    "dpmpp_3m": Solver(dpmpp_3m, "DPM-Solver++ 3M", starts={"dpmpp_3m": {}}),
    "unipc": Solver(unipc, "UniPC", starts={f"unipc{order}": {"order": order} for order in (2, 3)}),
    "longstride": Solver(longstride, "Universal", own_levels=True),
}


def classical_solvers() -> dict[str, Solver]:
    """The solvers that visit the levels they are given, by name; those that were added since are among them."""
    return {name: one for name, one in SOLVERS.items() if not one.own_levels}


#: The same, as the package has them.
CLASSICAL_SOLVERS = classical_solvers()
#: Solvers with options, by name: ``unipc3`` is UniPC of order 3.
VARIANTS: dict[str, Variant] = {
    key: one
    for name, solver in SOLVERS.items()
    for key, one in {name: Variant(name, solver.label, name), **solver.variants(name)}.items()
}


def build(
    name: str,
    sigmas: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    schedule: Schedule | None = None,
    **options: Any,
) -> SolverTable:
    """The table of a solver on given levels.

    Args:
        name: One of :data:`SOLVERS`.
        sigmas: Levels from noisy to clean, shape ``(N + 1,)``, strictly decreasing; the last may be 0.
        alphas: Alphas of the levels; default: the schedule's in its frame, or 1.
        schedule: The model's schedule; gives alphas, and network times to the solvers that use times.
        **options: The solver's own options, such as ``order=``; see the docstring of its builder.

    Raises:
        InputError: unknown name or option, or levels that the solver cannot use.

    Examples:
        >>> import longstride as ls
        >>> table = ls.build("ddim", [80.0, 5.0, 0.5, 0.0])
        >>> table.nfe, table.a.round(5).tolist()
        (3, [1.0, 0.0625, 0.00625, 0.0])
    """
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    nodes = Nodes.of(sigmas, alphas, schedule)
    try:
        return SOLVERS[name](nodes, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise not_taken(f"solver {name!r}", error) from None


def steps_for_nfe(name: str, nfe: int, *, final_zero: bool = False, **options: Any) -> int:
    """Number of grid steps with which solver ``name`` spends exactly ``nfe`` network calls.

    Args:
        name: One of :data:`SOLVERS`.
        nfe: Network calls, at least 1.
        final_zero: Whether the grid ends at sigma 0; some solvers then save a call.
        **options: The solver's options.

    Raises:
        InputError: no number of steps gives exactly ``nfe``; the message names the nearest number that works.
    """
    if nfe < 1:
        raise InputError(f"nfe must be at least 1, got {nfe}")
    if name in SOLVERS and SOLVERS[name].own_levels:
        return nfe
    possible: list[int] = []
    refusal: InputError | None = None
    for steps in range(1, nfe + 1):
        sigmas = np.geomspace(10.0, 0.1, steps + 1)
        if final_zero:
            sigmas[-1] = 0.0
        try:
            calls = build(name, sigmas, **options).nfe
        except InputError as error:  # too few levels for this solver, or a bad name or option
            refusal = error
            continue
        if calls == nfe:
            return steps
        possible.append(calls)
    if not possible:
        raise refusal or InputError(f"{name} takes more than {nfe} network calls for a single step")
    nearest = min(possible, key=lambda calls: abs(calls - nfe))
    raise InputError(f"{name} cannot spend exactly {nfe} network calls; {nearest} would work")
