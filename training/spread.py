"""How the tables that networks would like best differ from universal tables.

A network's own core comes out of Gauss–Newton steps on its samples alone, from the core that was fitted without it, or
of fewer than 4 calls from the core that is shipped. A weak pull keeps numbers where they are that hardly matter. The
differences of many networks are what calibrations on few samples know beforehand
(:mod:`longstride.calibration.endpoint.prior`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.networks.joint import Goal, Joint
from benchmarks.networks.members import MEMBERS, Member
from benchmarks.networks.solved import Solved
from longstride.arrays import Array
from longstride.calibration.loss import Loss
from longstride.cores.core import Core
from longstride.errors import InputError
from longstride.files import write_atomically

__all__ = ["NETWORKS", "measure_spread", "own_numbers", "shortened"]

#: Networks of all kinds whose calls are cheap.
NETWORKS = (
    *("wine", "cancer", "pink", "brown", "flower", "china", "small_digits", "digits", "hsc32", "ztf32"),
    *("garments_flow", "wine@3", "cancer@3", "small_digits@3", "digits@3", "wine@7.5", "cancer@7.5"),
    *("small_digits@7.5", "digits@7.5"),
)
#: Most steps, the pull to the universal core, and where the loss is robust: squared errors over the core's median.
_STEPS, _PULL, _ROBUST = 6, 1e-2, 0.25
#: Numbers that hardly matter can run far in spite of the pull: the differences of a network are shortened to it.
_FARTHEST = 9.0
#: Samples of a network, by whether its calls are cheap.
_SAMPLES, _DEAR = 96, 24


def own_numbers(member: Member, core: Core, folder: Path) -> Array | None:
    """Free numbers of the core that suits a network best; None if no step is possible.

    Args:
        member: The network.
        core: The core that the steps start from.
        folder: Where solutions are kept.
    """
    solved = Solved(member, range(_SAMPLES if member.cost < 1 else _DEAR), False, folder)
    median = float(np.median(solved.squared(solved.core(core))))
    goal = Goal(solved, median, 1.0, len(solved.seeds), 1.0, Loss(_ROBUST))
    found = [core.numbers]
    joint = Joint([goal], core.start, 1.0, lambda text: None)
    with suppress(InputError):  # two levels are so close that a difference quotient would swap them
        joint.fit(core.numbers, core.nfe, _STEPS, ridge=_PULL, keep=lambda numbers, losses: found.append(numbers))
    return found[-1] if len(found) > 1 else None


def shortened(moves: list[float]) -> list[float]:
    """The differences of a network, none above a bound, in the same direction."""
    by = max(1.0, max(map(abs, moves)) / _FARTHEST)
    return [round(x / by, 5) for x in moves]


def measure_spread(
    nfe: int,
    unseen: Callable[[Member, int], Mapping[tuple[float, bool], Core]],
    folder: Path,
    out: Path,
) -> None:
    """Differences of networks' own free numbers from those of the core without them; goes on where it was cut.

    Args:
        nfe: Network calls.
        unseen: The cores that a network is compared with, by guidance scale and whether they are of dark pictures.
        folder: Where solutions are kept.
        out: The file that is written.
    """
    kept: dict[str, list[float]] = json.loads(out.read_text()) if out.is_file() else {}
    for name in NETWORKS:
        member = MEMBERS[name]
        w = 1.0 if member.guidance is None else member.guidance
        core = unseen(member, nfe).get((w, member.dark))
        if name in kept or core is None:
            continue
        if (own := own_numbers(member, core, folder)) is None:
            print(nfe, name, "takes no step", flush=True)
            continue
        kept[name] = [round(x, 5) for x in (own - core.numbers).tolist()]
        print(nfe, name, "largest", max(map(abs, kept[name])), flush=True)
        write_atomically(out, (json.dumps(kept) + "\n").encode())
