"""The plan of a staged roll-out, as ``Rollout.start`` takes it."""

from __future__ import annotations

from typing import Any

from longstride.report.decision import Decision, Recommendation
from longstride.report.outcome import Outcome
from longstride.rollout import METRICS, STAGES

__all__ = ["card_name", "plan_of", "requests_before"]


def card_name(calls: int) -> str:
    """Name of the file of the recommended card."""
    return f"card-{calls}.json"


def plan_of(outcome: Outcome, decision: Decision) -> dict[str, Any] | None:
    """Arguments of ``Rollout.start`` besides the store, as plain data; None if nothing is to be adopted.

    A sampler that wants monitoring answers twice as many requests in every stage before the next one begins.
    """
    if decision.calls is None:
        return None
    times = 2 if decision.recommendation is Recommendation.MONITOR else 1
    stages = [one.model_dump(mode="json") for one in STAGES]
    for stage in stages:
        stage |= {"requests": times * stage["requests"], "measured": times * stage["measured"]}
    return {
        "new": card_name(decision.calls),
        "stages": stages,
        "tolerances": {name: metric.tolerance for name, metric in METRICS.items()},
        "false_alarms": 0.05,
    }


def requests_before(stage: dict[str, Any]) -> float:
    """Requests to the whole service until the new sampler has answered as many as a stage needs."""
    return float(stage["requests"] / stage["share"])
