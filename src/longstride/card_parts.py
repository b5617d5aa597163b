"""The parts of a card, as validated plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from longstride.errors import CardError, InputError
from longstride.reports import Finite
from longstride.schedule import VE, ContinuousVP, DiscreteVP, Flow, Schedule
from longstride.table import Row, SolverTable

__all__ = ["How", "ModelInfo", "Part", "ScheduleData", "ScheduleInfo", "SolverInfo", "TableData"]

#: Origin of an entry of a book; ``base``: its gate kept the best classical solver.
How = Literal["calibrated", "filled", "filled and refined", "base"]


class Part(BaseModel):
    """A frozen model that knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelInfo(Part):
    """The model that a card was calibrated on.

    Attributes:
        name: Human-readable name.
        fingerprint: SHA-256 of the weights, or None if unknown.
        guidance: Classifier-free guidance scale, or None.
        shape: Shape of one state, or None if unknown.
    """

    name: str = "unnamed"
    fingerprint: str | None = None
    guidance: Finite | None = None
    shape: tuple[int, ...] | None = None

    def check(self, model: ModelInfo) -> None:
        """Make sure that a card of this model belongs to ``model``.

        Raises:
            CardError: the weights (if both are known) or the guidance scale differ.
        """
        if self.fingerprint and model.fingerprint and self.fingerprint != model.fingerprint:
            raise CardError(
                f"this card was calibrated on {self.name!r} (weights {self.fingerprint[:12]}), not on {model.name!r} "
                f"(weights {model.fingerprint[:12]}): calibrate again with `longstride calibrate`, or force its use "
                "with --any-model"
            )
        if self.guidance != model.guidance:
            raise CardError(
                f"this card was calibrated at guidance {self.guidance}, not {model.guidance}: use that scale, or "
                "calibrate again"
            )


class RowWeights(Part):
    """One row of the recurrence: weights of earlier states and outputs, by index."""

    states: dict[int, Finite]
    outputs: dict[int, Finite]


class TableData(Part):
    """A :class:`~longstride.SolverTable` as plain numbers."""

    alphas: list[Finite]
    sigmas: list[Finite]
    grid: list[int]
    rows: list[RowWeights]
    exact: bool

    @staticmethod
    def of(table: SolverTable) -> TableData:
        """Plain numbers of ``table``."""
        rows = [RowWeights(states=dict(row.states), outputs=dict(row.outputs)) for row in table.rows]
        return TableData(
            alphas=table.alphas.tolist(),
            sigmas=table.sigmas.tolist(),
            grid=list(table.grid),
            rows=rows,
            exact=table.exact,
        )

    def table(self, name: str, options: Mapping[str, Any]) -> SolverTable:
        """The table itself; its constructor checks it."""
        rows = tuple(Row(row.states, row.outputs) for row in self.rows)
        levels = np.array(self.alphas), np.array(self.sigmas)
        return SolverTable(name, *levels, rows, tuple(self.grid), options, self.exact)


class SolverInfo(Part):
    """A classical solver and its options."""

    name: str
    options: dict[str, Any] = {}


class ScheduleInfo(Part):
    """The schedule's family, and the network's time at every level; None if the denoiser has no schedule."""

    family: Literal["ve", "vp", "flow"] | None = None
    times: list[Finite] | None = None


_SCHEDULES: dict[str, type[Schedule]] = {one.__name__: one for one in (VE, DiscreteVP, ContinuousVP, Flow)}


class ScheduleData(Part):
    """A whole schedule as plain numbers.

    Attributes:
        kind: Class of the schedule.
        numbers: Arguments of the class, by name.
    """

    kind: Literal["VE", "DiscreteVP", "ContinuousVP", "Flow"]
    numbers: dict[str, Finite | list[Finite]]

    @staticmethod
    def of(schedule: Schedule) -> ScheduleData | None:
        """Plain numbers of a schedule; None for a schedule of another class."""
        if type(schedule) not in _SCHEDULES.values():
            return None
        values: dict[str, Any] = asdict(schedule)  # type: ignore[call-overload]
        del values["family"]
        return ScheduleData.model_validate({"kind": type(schedule).__name__, "numbers": values})

    def schedule(self) -> Schedule:
        """The schedule itself.

        Raises:
            InputError: the class does not take these numbers.
        """
        numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in self.numbers.items()}
        try:
            return _SCHEDULES[self.kind](**numbers)
        except TypeError as error:
            raise InputError(f"a schedule {self.kind} is not made from {', '.join(numbers) or 'nothing'}") from error
