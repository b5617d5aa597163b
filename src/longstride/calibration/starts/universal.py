"""Universal tables as starts of fits: at the data's scale, and at a finer and a coarser scale.

The scale that suits a network best is not always the standard deviation of its data: pictures with a dark background
and a few bright objects want levels that lie higher, even pictures levels that lie lower. A few samples tell. Tables
that were fitted to dark pictures are tried on dark samples, too.

A universal start is named ``0.5 std@universal``: all of them count as starts on one grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from longstride.calibration.samples import Samples
from longstride.calibration.starts.classical import CLASSICAL, classical_tables
from longstride.cores.dark import SCALES, is_dark, kurtosis_of
from longstride.nodes import Nodes
from longstride.schedule import Schedule
from longstride.solvers.universal import Unserved, universal_table
from longstride.table import SolverTable

__all__ = ["PARTS", "is_universal", "most_universal_starts", "scaled_tables", "universal_starts"]

#: Scales that are tried, as multiples of the data's standard deviation.
PARTS = (0.5, 1.0, 2.0)
#: Guidance scales that are tried where the network does not tell its own.
_SCALES = (1.0, 7.5)
#: What names of universal starts end in.
_GRID = "@universal"


def is_universal(start: str) -> bool:
    """Whether a start of this name is a universal table."""
    return start.endswith(_GRID)


def most_universal_starts(*, guided: bool = False) -> int:
    """Most universal starts, of a network that tells its guidance scale or of one that does not."""
    return len(PARTS) if guided else len(PARTS) * len(_SCALES)


def scaled_tables(
    like: SolverTable,
    schedule: Schedule | None,
    std: float,
    guidance: float,
    floor: float | None = None,
    *,
    parts: Sequence[float] = PARTS,
    dark: bool = False,
) -> dict[float, SolverTable]:
    """Universal tables between the ends of a table, by their scale over ``std``; none where there is none.

    Args:
        like: Gives the calls and the two ends.
        schedule: The network's schedule, or None.
        std: Standard deviation of the data.
        guidance: Guidance scale; 1 without guidance.
        floor: Least positive level, for tables that end at sigma 0.
        parts: The scales.
        dark: Whether the tables are those of dark samples.
    """
    spaced = classical_tables(like, schedule, floor, solvers={"ddim": CLASSICAL["ddim"]})
    if not spaced:
        return {}
    ends = next(iter(spaced.values()))
    nodes, found = Nodes(ends.alphas, ends.sigmas, schedule), {}
    for part in parts:
        with suppress(Unserved):
            found[part] = universal_table(nodes, part * std, guidance, dark)
    return found


def universal_starts(samples: Samples, like: SolverTable) -> dict[str, SolverTable]:
    """Universal tables between the ends of a table, by name; none where there is no universal table.

    Args:
        samples: The samples, with their reference solution, whose standard deviation is the data's.
        like: Gives the calls and the two ends.
    """
    if samples.reference is None:
        return {}
    network, ends = samples.network, samples.reference.samples.float()
    build = partial(scaled_tables, like, network.schedule, float(ends.std()), floor=samples.floor)
    found: dict[str, SolverTable] = {}
    dark = is_dark(kurtosis_of(ends))
    for scale in ((1.0,) if dark else _SCALES) if network.guidance is None else (network.guidance,):
        guided = f" w{scale:g}" if network.guidance is None and scale != 1 else ""
        found |= {f"{part:g} std{guided}{_GRID}": one for part, one in build(scale).items()}
    if dark and network.guidance in (None, 1.0):  # they were fitted without guidance
        tables = build(1.0, parts=SCALES, dark=True)
        found |= {f"{part:g} std dark{_GRID}": one for part, one in tables.items()}
    return found
