"""How a roll-out decides, within one transaction of its store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from longstride.rollout.assignment import control_of
from longstride.rollout.evidence import Answer, Evidence, Measured
from longstride.rollout.plan import Plan
from longstride.rollout.records import Counts, Decision
from longstride.rollout.standing import evidence_of, waiting_for
from longstride.rollout.writing import Writing

__all__ = ["judge", "promote", "withdraw"]

By = Literal["itself", "hand"]


def judge(
    work: Writing, last: Decision, plan: Plan, arm: str, answer: Answer | None, found: Measured | None
) -> Decision | None:
    """Add a request to the evidence, and decide.

    Args:
        work: The transaction.
        last: The last decision.
        plan: Its plan.
        arm: Who answered.
        answer: How; None: it was told before.
        found: Errors of the request; None: not measured.

    Returns:
        The decision, or None.
    """
    if arm not in plan.names:  # of a roll-out that ended while the request was answered
        return None
    counted = Counts() if answer is None else Counts.of(answer)
    work.add(last.rollout, last.stage, arm, counted.plus(Counts(measured=int(found is not None))))
    evidence = work.evidence(last.rollout, plan)
    if answer is not None and answer.non_finite:  # below the safest arm there is nothing to go back to
        if arm == plan.names[0] or arm in last.withdrawn:
            return None
        return withdraw(work, last, plan, (arm,), f"{arm} returned NaN or infinity", evidence, "itself")
    if plan.new in last.withdrawn or arm not in (plan.new, control_of(plan, last.withdrawn)):
        return None
    pending = dict(evidence.pending)
    if answer is not None:
        evidence.answered(answer, new=arm == plan.new)
    if found is not None:
        evidence.measured(arm, found, new=arm == plan.new)
    work.keep(last.rollout, evidence, pending)
    if (harm := evidence.harm()) is not None:
        return withdraw(work, last, plan, (plan.new,), harm, evidence, "itself")
    if last.status != "running" or waiting_for(plan, last, work.counts(last.rollout), evidence):
        return None
    return promote(work, last, plan, "the evidence of the stage is there", evidence, "itself")


def promote(work: Writing, last: Decision, plan: Plan, reason: str, evidence: Evidence, by: By) -> Decision:
    """Go to the next stage, or end after the last one."""
    known, gone = evidence_of(evidence), last.withdrawn
    if last.stage + 1 == len(plan.stages):
        return work.decide(last.rollout, "completed", last.stage, "complete", gone, reason, known, by)
    return work.decide(last.rollout, "promoted", last.stage + 1, "running", gone, reason, known, by)


def withdraw(
    work: Writing, last: Decision, plan: Plan, arms: Sequence[str], reason: str, evidence: Evidence, by: By
) -> Decision:
    """Take arms out; the roll-out has ended if the new one is among them."""
    known = evidence_of(evidence)
    gone = [name for name in plan.names if name in {*last.withdrawn, *arms}]
    if plan.new in arms:
        return work.decide(last.rollout, "rolled back", last.stage, "rolled back", gone, reason, known, by)
    return work.decide(last.rollout, "withdrawn", last.stage, last.status, gone, reason, known, by)
