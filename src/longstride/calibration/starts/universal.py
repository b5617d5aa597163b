"""Universal tables as starts of fits: at the data's scale, and at finer and coarser scales.

The scale that suits a network best is not always the standard deviation of its data: pictures with a dark background
and a few bright objects want levels that lie higher, even pictures levels that lie lower. A few samples tell.
"""

from __future__ import annotations

from longstride.calibration.samples import Samples
from longstride.calibration.starts.classical import CLASSICAL, classical_tables
from longstride.cores.choice import calls, closest_start
from longstride.errors import InputError
from longstride.nodes import Nodes
from longstride.solvers import SOLVERS
from longstride.table import SolverTable

__all__ = ["PARTS", "most_universal_starts", "universal_starts"]

#: Scales that are tried, as multiples of the data's standard deviation.
PARTS = (0.4, 1.0, 2.5)
#: Guidance scales that are tried where the network does not tell its own.
_SCALES = (1.0, 7.5)


def most_universal_starts() -> int:
    """Most universal starts."""
    return len(PARTS) * len(_SCALES)


def universal_starts(samples: Samples, like: SolverTable) -> dict[str, SolverTable]:
    """Universal tables between the ends of a table, by name; none where there is no universal table.

    Args:
        samples: The samples, with their reference solution, whose standard deviation is the data's.
        like: Gives the calls and the two ends.
    """
    schedule = samples.network.schedule
    spaced = classical_tables(like, schedule, samples.floor, solvers={"ddim": CLASSICAL["ddim"]})
    if like.nfe not in calls() or samples.reference is None or not spaced:
        return {}
    ends = next(iter(spaced.values()))
    nodes = Nodes(ends.alphas, ends.sigmas, schedule)
    std = float(samples.reference.samples.float().std())
    guidance = samples.network.guidance
    found = {}
    for part in PARTS:
        if float(nodes.ratios[0]) < closest_start() * part * std:
            continue
        for scale in _SCALES if guidance is None else (guidance,):
            try:
                table = SOLVERS["longstride"](nodes, data_std=part * std, guidance=scale)
            except InputError:  # the ends do not enclose its levels
                continue
            name = f"longstride@{part:g}" + (f",{scale:g}" if guidance is None and scale != 1 else "")
            found[name] = table
    return found
