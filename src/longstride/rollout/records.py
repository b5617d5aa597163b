"""Entries of a roll-out's log, and sums over its requests: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from longstride.rollout.evidence import Answer

__all__ = ["Action", "Counts", "Decision", "Status"]

Action = Literal["started", "promoted", "completed", "rolled back", "withdrawn"]
Status = Literal["running", "complete", "rolled back"]


@dataclass(frozen=True)
class Decision:
    """An entry of the log, with the state that it led to.

    Attributes:
        number: Sequence number; the order of the log.
        rollout: Number of the roll-out in this store.
        action: What was done.
        stage: Index of the stage from then on.
        status: Status from then on.
        withdrawn: Names of the arms that answer nothing from then on.
        reason: Why.
        evidence: What was known.
        by: ``"itself"`` or ``"hand"``.
        told: What the clock said, in seconds since 1970.
    """

    number: int
    rollout: int
    action: Action
    stage: int
    status: Status
    withdrawn: tuple[str, ...]
    reason: str
    evidence: dict[str, Any]
    by: Literal["itself", "hand"]
    told: float


@dataclass(frozen=True)
class Counts:
    """Sums over the requests of an arm in a stage; see :class:`.Answer`."""

    requests: int = 0
    flagged: int = 0
    drift: int = 0
    non_finite: int = 0
    seconds: float = 0.0
    measured: int = 0

    @staticmethod
    def of(answer: Answer) -> Counts:
        """The counts of one request."""
        seconds = answer.seconds or 0.0
        return Counts(1, int(bool(answer.flagged)), int(bool(answer.drift)), int(answer.non_finite), seconds)

    def plus(self, other: Counts) -> Counts:
        """Sums of both."""
        return Counts(*(x + y for x, y in zip(asdict(self).values(), asdict(other).values(), strict=True)))
