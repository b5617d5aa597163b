"""Putting a card before real traffic: arms, stages, live errors, and decisions in a store."""

from longstride.rollout.bounds import Bounds
from longstride.rollout.evidence import Measured
from longstride.rollout.metrics import METRICS
from longstride.rollout.plan import STAGES, Arm, Plan, Stage
from longstride.rollout.records import Counts, Decision
from longstride.rollout.reference import LiveReference, Tally, live_errors
from longstride.rollout.rollout import Rollout
from longstride.rollout.standing import Bounded, Standing

__all__ = [
    "METRICS",
    "STAGES",
    "Arm",
    "Bounded",
    "Bounds",
    "Counts",
    "Decision",
    "LiveReference",
    "Measured",
    "Plan",
    "Rollout",
    "Stage",
    "Standing",
    "Tally",
    "live_errors",
]
