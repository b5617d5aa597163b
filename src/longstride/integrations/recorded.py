"""Runs of a card in a pipeline are recorded, so that its guard and a monitor can judge them: no network call more."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.card import Card
from longstride.errors import InputError
from longstride.guard import Monitor, Recorder, Seen
from longstride.guard.statistics import names
from longstride.integrations.setups import Setup
from longstride.table import SolverTable

__all__ = ["Recorded", "Role"]

#: What a scheduler with a card is for: runs that nobody makes again; runs whose flagged samples are made again; the
#: base's runs of flagged samples.
Role = Literal["alone", "guarded", "base"]


class Recorded:
    """A scheduler that records the runs of its card.

    Attributes:
        monitor: A monitor of the card, which sees every whole run of its table; None: none.
    """

    monitor: Monitor | None = None
    _role: Role = "alone"
    _stepper: Any

    def _recorder(self, setup: Setup, table: SolverTable) -> Recorder | None:
        """What records a run of ``table``; None if nobody would look."""
        card = setup.plan.card
        looked_at = card is not None and (card.guard is not None or self.monitor is not None)
        if not looked_at or table is not setup.plan.table or self._role == "base" or torch.compiler.is_compiling():
            return None
        return Recorder(table)

    def _judge(self, setup: Setup, recorder: Recorder, state: Tensor) -> tuple[Tensor, Seen | None]:
        """Which samples of a run that has ended are flagged, and what the monitor saw.

        Raises:
            InputError: the monitor is of another card.
            MonitorError: the monitor's policy is ``"raise"``, and it raised an alarm.
        """
        card = setup.plan.card
        assert card is not None
        statistics = _in_frame_of(card, recorder)
        finite = torch.isfinite(state.flatten(1)).all(1).cpu().numpy()
        flagged = ~finite if card.guard is None else card.guard.flags(statistics) | ~finite
        seen = None
        if self.monitor is not None:
            self.monitor.check_table(card.table)
            seen = self.monitor.see(statistics, finite)
            flagged = flagged | seen.again
        return torch.from_numpy(flagged), seen

    @property
    def flagged(self) -> Tensor | None:
        """States of the last run of this thread that the base should make again, ``(B,)``, on the CPU.

        None if the run has not ended, if the card did not run, or if it has no guard and there is no monitor.
        """
        verdict: tuple[Tensor, Seen | None] | None = self._stepper.verdict
        return None if verdict is None else verdict[0]

    @property
    def seen(self) -> Seen | None:
        """What the monitor saw in the last run of this thread; None without a monitor, or before the run has ended."""
        verdict: tuple[Tensor, Seen | None] | None = self._stepper.verdict
        return None if verdict is None else verdict[1]


def _in_frame_of(card: Card, recorder: Recorder) -> Array:
    """Statistics of a run in a pipeline, whose states may be scaled otherwise than in the calibration."""
    found, table = recorder.read(), recorder.table
    known = {name: place for place, name in enumerate(names(table.nfe))}
    if card.table.nfe != table.nfe:
        raise InputError(f"the card is for {card.table.nfe} network calls, the run made {table.nfe}")
    ratios = np.log(card.table.sigmas[: table.nfe] / table.sigmas[: table.nfe])
    found[:, [known[f"state {k}"] for k in range(table.nfe)]] += ratios
    return found
