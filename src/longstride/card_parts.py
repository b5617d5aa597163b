"""The parts of a card, as validated plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from longstride.errors import CardError, InputError
from longstride.reports import Finite
from longstride.schedule import VE, ContinuousVP, DiscreteVP, Flow, Schedule
from longstride.table import Row, SolverTable

__all__ = [
    "Adapter",
    "CallInfo",
    "How",
    "LevelData",
    "ModelInfo",
    "Part",
    "ScheduleData",
    "ScheduleInfo",
    "SolverInfo",
    "TableData",
]

#: Origin of an entry of a book; ``base``: its gate kept the best classical solver.
How = Literal["calibrated", "filled", "filled and refined", "base"]


class Part(BaseModel):
    """A frozen model that knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Adapter(Part):
    """An adapter that was active in a network, such as a LoRA.

    Attributes:
        scale: What its output is multiplied by; the mean over the layers.
        digest: SHA-256 of its weights.
    """

    scale: Finite
    digest: str


class ModelInfo(Part):
    """The model that a card was calibrated on.

    Attributes:
        name: Human-readable name.
        fingerprint: SHA-256 of the weights, or None if unknown. Of several networks: SHA-256 of their digests.
        guidance: Classifier-free guidance scale, or None. The scale of a pipeline's default counts as any other.
        shape: Shape of one state, or None if unknown.
        networks: SHA-256 of the weights of every network of a pipeline, by the name of its component; None if they
            cannot be read. Empty on cards before version 4, and if no pipeline was calibrated.
        adapters: Adapters that were active, by ``component/name``.
    """

    name: str = "unnamed"
    fingerprint: str | None = None
    guidance: Finite | None = None
    shape: tuple[int, ...] | None = None
    networks: dict[str, str | None] = {}
    adapters: dict[str, Adapter] = {}

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


class LevelData(Part):
    """What a pipeline gave to ``set_timesteps``; None for what it left out.

    Attributes:
        steps: Number of steps.
        timesteps: Network times of the steps.
        sigmas: Levels of the steps.
        mu: Dynamic shift of a flow.
    """

    steps: int | None = None
    timesteps: tuple[Finite, ...] | None = None
    sigmas: tuple[Finite, ...] | None = None
    mu: Finite | None = None

    def same(self, other: LevelData) -> bool:
        """Whether both are one request, to the precision of float32."""
        numbers = [(self.timesteps, other.timesteps), (self.sigmas, other.sigmas), (self.mu, other.mu)]
        return self.steps == other.steps and all(_close(mine, theirs) for mine, theirs in numbers)


def _close(mine: Any, theirs: Any) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return np.shape(mine) == np.shape(theirs) and bool(np.allclose(mine, theirs, rtol=1e-4, atol=1e-6))


class CallInfo(Part):
    """The call of a pipeline that a card was made for.

    Attributes:
        pipeline: Class of the pipeline.
        settings: What was in force, by name: given values and defaults, as plain values; what is None is left out.
            Guiders are among the settings. Prompts, pictures and other tensors are not.
        conditions: What was given beside the prompt, by kind, such as ``negative_prompt`` and ``control_image``.
        levels: What the pipeline gave to ``set_timesteps``; None if unknown.
        seen: Weights of the network's predictions in what the scheduler was given at the first call, in the order in
            which the network made them; None if no two numbers explain it.
        told: Guidance scale that the network was told at the first call (embedded guidance), or None.
    """

    pipeline: str
    settings: dict[str, Any] = {}
    conditions: tuple[str, ...] = ()
    levels: LevelData | None = None
    seen: tuple[Finite, ...] | None = None
    told: Finite | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the class, the settings and the conditions."""
        told = [self.pipeline, self.settings, sorted(self.conditions)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


#: Most network calls of a card. The normal form of a table grows with their square.
_MOST_CALLS = 1024


class RowWeights(Part):
    """One row of the recurrence: weights of earlier states and outputs, by index."""

    states: dict[int, Finite]
    outputs: dict[int, Finite]


class TableData(Part):
    """A :class:`~longstride.SolverTable` as plain numbers."""

    alphas: list[Finite]
    sigmas: list[Finite]
    grid: list[int]
    rows: list[RowWeights] = Field(max_length=_MOST_CALLS)
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
        if "family" in self.numbers:
            raise InputError(f"a schedule {self.kind} has its own family: no number of that name is taken")
        numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in self.numbers.items()}
        try:
            return _SCHEDULES[self.kind](**numbers)
        except TypeError as error:
            raise InputError(f"a schedule {self.kind} is not made from {', '.join(numbers) or 'nothing'}") from error
