"""A sampler for a network that nobody calibrated: a table that was fitted on many networks at once."""

from __future__ import annotations

from longstride.grid import LastLevel, grid
from longstride.nodes import Nodes
from longstride.schedule import Schedule
from longstride.solvers.universal import universal_table
from longstride.table import SolverTable

__all__ = ["universal"]


def universal(
    nfe: int,
    *,
    schedule: Schedule,
    data_std: float | None = None,
    guidance: float | None = None,
    sigma_max: float | None = None,
    final: LastLevel = "zero",
    dark: bool = False,
) -> SolverTable:
    """A table for any network of a schedule, without calibration.

    The tables were fitted on many networks at once; ``docs/universal.md`` names them, and shows what to expect on
    others. Levels lie at multiples of the standard deviation of the data.

    Args:
        nfe: Network calls.
        schedule: The network's schedule.
        data_std: Standard deviation of the data; default: 1/2 for EDM, and 1, that of latents, for other schedules.
            Pictures in [-1, 1] have about 1/2.
        guidance: Guidance scale, or None.
        sigma_max: First level, in the schedule's frame; default: the schedule's.
        final: What the last level is: 0, or the schedule's least level.
        dark: Whether samples are a few bright objects on a dark ground, such as galaxies: a table that was fitted to
            such pictures.

    Raises:
        InputError: no table makes so many calls or starts so near; or an impossible standard deviation or scale. The
            message says what to run instead.

    Examples:
        >>> import longstride as ls
        >>> table = ls.universal(6, schedule=ls.Schedule.flow())
        >>> table.nfe, float(table.alphas[0]), float(table.sigmas[-1])
        (6, 0.0, 0.0)
    """
    nodes = Nodes.of(grid("log_snr", nfe, schedule=schedule, sigma_max=sigma_max, final=final), None, schedule)
    return universal_table(nodes, data_std, 1.0 if guidance is None else guidance, dark)
