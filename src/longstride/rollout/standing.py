"""Where a roll-out stands: what it has seen, what it knows, what it waits for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longstride.rollout.assignment import control_of, shares
from longstride.rollout.bounds import Bounds
from longstride.rollout.evidence import Evidence
from longstride.rollout.metrics import METRICS
from longstride.rollout.plan import Plan
from longstride.rollout.records import Counts, Decision

__all__ = ["Bounded", "Standing", "evidence_of", "waiting_for"]

ByStage = Mapping[tuple[int, str], Counts]


@dataclass(frozen=True)
class Bounded:
    """A number with bounds that hold at every moment at once.

    Attributes:
        value: Estimate; None: nothing was seen.
        lower: Lower bound.
        upper: Upper bound; None: there is none yet.
        pairs: Number of pairs that it comes from.
        tolerance: The new arm is rolled back when the lower bound gets here; None: nothing is decided on it.
    """

    value: float | None
    lower: float
    upper: float | None
    pairs: int
    tolerance: float | None = None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def evidence_of(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """All comparisons in which something was seen, as plain data for the log."""
    found = _comparisons(evidence)
    return {name: asdict(bounded) for name, bounded in found.items() if bounded.pairs}


def _comparisons(evidence: Evidence) -> dict[str, Bounded]:
    found = {}
    for name, metric in METRICS.items():
        bounds = evidence.bounds(name)
        ends = (metric.value(share) for share in (bounds.estimate, bounds.lower, bounds.upper))
        value, lower, upper = (_finite(end) for end in ends)
        tolerance = evidence.plan.tolerance(name)
        found[name] = Bounded(value, metric.least if lower is None else lower, upper, bounds.count, tolerance)
    return found


def _mean_error(bounds: Bounds, cap: float) -> Bounded:
    value, lower, upper = (cap * share for share in (bounds.estimate, bounds.lower, bounds.upper))
    return Bounded(_finite(value), lower, upper, bounds.count)


def waiting_for(plan: Plan, last: Decision, counts: ByStage, evidence: Evidence) -> list[str]:
    """What the stage still needs, in words; empty: the evidence is there."""
    stage = plan.stages[last.stage]
    answered = counts.get((last.stage, plan.new), Counts()).requests
    measured = sum(found.measured for (_, arm), found in counts.items() if arm == plan.new)
    waiting = []
    if answered < stage.requests:
        waiting.append(f"{stage.requests - answered} more requests by {plan.new}")
    if measured < stage.measured:
        waiting.append(f"the error of {stage.measured - measured} more requests by {plan.new}")
    return waiting + evidence.open_bounds(stage.at_most)


@dataclass(frozen=True)
class Standing:
    """Where a roll-out stands.

    Attributes:
        rollout: Number of the roll-out in the store.
        status: ``"running"``, ``"complete"`` or ``"rolled back"``.
        stage: Index of the stage.
        stages: Shares of all stages.
        control: The arm that the new one is compared with.
        shares: Share of the requests of every arm.
        withdrawn: Arms that answer nothing any more.
        counts: Sums over the requests of every arm.
        comparisons: The new arm against the other one, by the names in :data:`.METRICS`.
        mean_errors: Mean error of the live requests of every arm that was measured, errors capped.
        waiting: What the stage still needs.
        last: The last decision.
        trouble: The fault of the store that this process met, or None.
    """

    rollout: int
    status: str
    stage: int
    stages: tuple[float, ...]
    control: str
    shares: dict[str, float]
    withdrawn: tuple[str, ...]
    counts: dict[str, Counts]
    comparisons: dict[str, Bounded]
    mean_errors: dict[str, Bounded]
    waiting: list[str]
    last: Decision
    trouble: str | None = None

    @staticmethod
    def of(last: Decision, plan: Plan, counts: ByStage, evidence: Evidence, trouble: str | None) -> Standing:
        """Where the roll-out of the decision ``last`` stands."""
        sums = dict.fromkeys(plan.names, Counts())
        for (_, arm), found in counts.items():
            sums[arm] = sums[arm].plus(found)
        errors = {name: evidence.bounds(f"mean_error/{name}") for name in plan.names}
        return Standing(
            last.rollout,
            last.status,
            last.stage,
            tuple(stage.share for stage in plan.stages),
            control_of(plan, last.withdrawn),
            shares(plan, last.stage, last.withdrawn),
            last.withdrawn,
            sums,
            _comparisons(evidence),
            {name: _mean_error(bounds, plan.error_cap) for name, bounds in errors.items() if bounds.count},
            waiting_for(plan, last, counts, evidence) if last.status == "running" else [],
            last,
            trouble,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON can hold it."""
        return asdict(self)
