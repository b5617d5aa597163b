"""The universal solver: a table that was fitted on many networks at once, for a network that nobody calibrated."""

from __future__ import annotations

import math
import warnings
from functools import partial

from longstride.cores.choice import chosen_core, objection, spread
from longstride.cores.core import UNIT, Core
from longstride.errors import InputError
from longstride.families import Family
from longstride.nodes import Nodes
from longstride.solvers.unipc import unipc
from longstride.table import SolverTable

__all__ = ["Unserved", "longstride", "neighbours", "universal_table", "usual_std"]

#: Order of UniPC where there is no universal table.
_ORDER = 3
#: First inner level of tables for dark samples, as a part of the start, at the most.
_BELOW = 0.9
#: Two tables are the same up to this distance.
_SAME = 1e-9


def usual_std(family: Family) -> float:
    """Standard deviation of the data where nobody says another: 1/2 for EDM's ``ve``, 1 for latents of the others."""
    return 0.5 if family == "ve" else 1.0


def longstride(nodes: Nodes, data_std: float | None = None, guidance: float = 1.0, dark: bool = False) -> SolverTable:
    r"""A universal table between the first and the last level.

    It visits levels of its own: of ``nodes`` the number of steps and the two ends count. The levels lie at multiples
    of ``data_std``. Where there is no universal table, UniPC of order 3 runs on the given levels, with a warning: for
    fewer or more calls than tables were fitted for, for a run that starts in the middle, and for ends that do not
    enclose the table's levels.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        data_std: Standard deviation of the data; default: :func:`usual_std` of the schedule's family.
        guidance: Guidance scale; 1 without guidance.
        dark: Whether samples are a few bright objects on a dark ground: such pictures have tables of their own, whose
            levels lie at other multiples of ``data_std``, and lower if the first level is too near for them.

    Returns:
        A table with ``nfe = N``.

    Raises:
        InputError: a standard deviation that is not positive, or a guidance scale that is not finite.

    References:
        Shaul et al., Bespoke non-stationary solvers, 2024, for the family of tables. https://arxiv.org/abs/2403.01329
    """
    try:
        return universal_table(nodes, data_std, guidance, dark)
    except Unserved as error:
        warnings.warn(f"{error.reason}: unipc of order {_ORDER} runs in its place", stacklevel=2)
        return unipc(nodes, order=_ORDER)


class Unserved(InputError):
    """No universal table serves a run.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: use longstride.build('unipc', ..., order={_ORDER}) in their place")
        self.reason = reason


def universal_table(
    nodes: Nodes, data_std: float | None = None, guidance: float = 1.0, dark: bool = False
) -> SolverTable:
    """What :func:`longstride` runs, where there is a universal table.

    Raises:
        Unserved: there is none for so many calls, so near a start, or between these ends.
        InputError: a standard deviation that is not positive, or a guidance scale that is not finite.
    """
    family = nodes.family if nodes.schedule is None else nodes.schedule.family
    std = usual_std(family) if data_std is None else float(data_std)
    if not 0 < std < math.inf or not math.isfinite(guidance):
        raise InputError(
            f"expected a positive data_std and a finite guidance, got {data_std} and {guidance}: data_std is the "
            "standard deviation of the data, such as 0.5 for pictures in [-1, 1] and 1 for latents"
        )
    start, end = float(nodes.ratios[0]), float(nodes.ratios[-1])
    if why := objection(nodes.steps, start / std, dark):
        raise Unserved(why)
    core = chosen_core(nodes.steps, start / std, guidance, dark)
    if dark:  # their scale is rough: it gives way to a start that lies lower
        std = min(std, _BELOW * start * UNIT / float(core.levels[0]))
    options = {"data_std": std, "guidance": guidance, **({"dark": True} if dark else {})}
    try:
        return core.table(data_std=std, start=start, end=end, family=nodes.family, options=options)
    except InputError as error:
        raise Unserved(str(error)) from error


def neighbours(table: SolverTable, step: float) -> list[SolverTable]:
    """Universal tables beside a universal table, one for each direction in which the tables of networks differ.

    The sum over these tables of products of changes, divided by ``step^2``, is the covariance of networks.

    Args:
        table: A universal table of this release; the list is empty for other tables, and where networks were not
            compared.
        step: How far to go, as a part of the differences.
    """
    if table.name != "longstride" or "data_std" not in table.options:
        return []
    nodes, std = Nodes(table.alphas, table.sigmas), float(table.options["data_std"])
    start, end, dark = float(nodes.ratios[0]), float(nodes.ratios[-1]), bool(table.options.get("dark", False))
    build = partial(Core.table, data_std=std, start=start, end=end, family=nodes.family)
    try:
        core = chosen_core(nodes.steps, start / std, float(table.options["guidance"]), dark)
        if not table.distance(build(core)) < _SAME:
            return []  # a table of another release, or one that was changed
        return [build(Core.of(core.numbers + step * move, core.nfe, core.start)) for move in spread(core.nfe)]
    except InputError:  # two levels are closer than a step, or no core serves such a run any more
        return []
