"""What other people have published, one file each; every file says what was simplified."""

from __future__ import annotations

from typing import Protocol

from benchmarks.peer_task import Found, Task
from benchmarks.peers import ays, dc_solver, dmn, dpm_solver_v3, gits, gs, ld3, pas, s4s

__all__ = ["PEERS", "PeerModule"]


class PeerModule(Protocol):
    """What the file of a peer holds.

    Attributes:
        LABEL: How tables write the peer.
        BACKPROP: Whether the peer needs gradients of the network.
    """

    LABEL: str
    BACKPROP: bool

    def find(self, task: Task, /) -> Found:
        """Find a sampler for the task."""


#: Every peer by name; the last three learn by backprop.
PEERS: dict[str, PeerModule] = {
    "gits": gits,
    "dmn": dmn,
    "ays": ays,
    "pas": pas,
    "dc_solver": dc_solver,
    "dpm_solver_v3": dpm_solver_v3,
    "ld3": ld3,
    "s4s": s4s,
    "gs": gs,
}
