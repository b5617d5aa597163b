"""Where a fit may start: every classical solver on every grid, between the two ends of a table.

The fit is not convex, so where it starts matters; under strong guidance it decides. Beside the usual grids there are
two that are made for the network: levels by dynamic programming, such that DDIM's own steps along converged
trajectories leave them by least in all (:mod:`longstride.calibration.levels`). ``dp`` weighs an error 1.1 times as much
as one a step earlier, ``dp_late`` 1.2 times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longstride.errors import InputError
from longstride.grid import Final, grid
from longstride.schedule import Flow, Schedule
from longstride.solvers import build, steps_for_nfe
from longstride.table import SolverTable

__all__ = ["CLASSICAL", "DISCOUNTS", "classical_tables"]

Array = NDArray[np.float64]

#: Grids by dynamic programming: how much more than an error of the step before it an error counts, of the published
#: choices (1 to 1.2) two. With 1 hardly a level lies near the end; straight flows want 1.1, strong guidance 1.2.
DISCOUNTS: Mapping[str, float] = {"dp": 1.1, "dp_late": 1.2}
#: Classical solvers of one call per step: name, builder and options.
CLASSICAL: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
    "ipndm2": ("ipndm", {"order": 2}),
    "ipndm3": ("ipndm", {"order": 3}),
    "ipndm4": ("ipndm", {"order": 4}),
    "deis3": ("deis", {"order": 3}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_3m": ("dpmpp_3m", {}),
    "unipc2": ("unipc", {"order": 2}),
    "unipc3": ("unipc", {"order": 3}),
}


def classical_tables(
    like: SolverTable,
    schedule: Schedule | None = None,
    floor: float | None = None,
    own: Mapping[str, Array] | None = None,
    solvers: Mapping[str, tuple[str, dict[str, Any]]] = CLASSICAL,
) -> dict[str, SolverTable]:
    """Classical solvers by ``solver@grid``, with the calls and the first and last level of a table.

    Args:
        like: The table.
        schedule: The network's; without one, only grids that need no network time are made.
        floor: Least positive level, for tables that end at sigma 0; default: the least of ``like``.
        own: Levels of further grids by name, such as those of :data:`DISCOUNTS`.
        solvers: Name, builder and options of each.
    """
    final: Final = "zero" if like.sigmas[-1] == 0 else "sigma_min"
    positive = like.sigmas[like.sigmas > 0]
    low = float(positive.min()) if final == "sigma_min" or floor is None else floor
    high = float(like.sigmas[0])
    # SD3's levels, for flows that do not have them anyway.
    shifted = replace(schedule, shift=3.0) if isinstance(schedule, Flow) and schedule.shift != 3 else None
    own, found = own or {}, dict[str, SolverTable]()
    for name, (solver, options) in solvers.items():
        try:
            steps = steps_for_nfe(solver, like.nfe, final_zero=final == "zero", **options)
        except InputError:
            continue
        for spacing in ("karras", "log_snr", "uniform", "quadratic", "shift3", *own):
            try:
                if spacing in own:
                    levels = own[spacing].copy() if len(own[spacing]) == steps + 1 else None
                elif spacing == "shift3":
                    levels = None if shifted is None else grid("uniform", steps, schedule=shifted, final=final)
                elif spacing in ("karras", "log_snr"):
                    levels = grid(spacing, steps, schedule=schedule, sigma_min=low, sigma_max=high, final=final)
                else:
                    levels = None if schedule is None else grid(spacing, steps, schedule=schedule, final=final)
                if levels is None or not np.allclose(levels[[0, -1]], like.sigmas[[0, -1]], rtol=1e-6):
                    continue  # a grid of the whole schedule, where the table begins or ends elsewhere
                levels[0], levels[-1] = like.sigmas[0], like.sigmas[-1]
                table = build(solver, levels, schedule=schedule, **options)
            except InputError:  # too few levels for this solver, or levels that meet
                continue
            if np.array_equal(table.alphas[[0, -1]], like.alphas[[0, -1]]):
                found[f"{name}@{spacing}"] = table
    return found
