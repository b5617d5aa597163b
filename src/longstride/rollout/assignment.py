"""Which arm answers a request: by a hash of its key, the same in every process and at every time.

The hash is a point u of [0, 1). The new arm has the points below its share, so a key that it has once it keeps while
the share grows. The safest arm may keep the points from 1 − its share up. All others have the arm before the new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from longstride.rollout.plan import Plan

__all__ = ["arm_of", "control_of", "point", "shares"]


def point(key: str | bytes | int, salt: str) -> float:
    """The point of a key in [0, 1); the same for an integer and its digits as text."""
    data = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8, salt=hashlib.sha256(salt.encode()).digest()[:16]).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def control_of(plan: Plan, withdrawn: Collection[str]) -> str:
    """The arm that the new one is compared with: the last one before it that still answers, or the safest one."""
    return next((name for name in plan.names[-2:0:-1] if name not in withdrawn), plan.names[0])


def shares(plan: Plan, stage: int, withdrawn: Collection[str]) -> dict[str, float]:
    """Share of the requests of every arm."""
    control = control_of(plan, withdrawn)
    new = 0.0 if plan.new in withdrawn else plan.stages[stage].share
    base = min(plan.base_share, 1 - new)
    found = dict.fromkeys(plan.names, 0.0)
    found[plan.new] = new
    found[plan.names[0]] += base
    found[control] += 1 - new - base
    return found


def arm_of(key: str | bytes | int, plan: Plan, stage: int, withdrawn: Collection[str]) -> str:
    """The arm that answers a request."""
    u, found = point(key, plan.salt), shares(plan, stage, withdrawn)
    if u < found[plan.new]:
        return plan.new
    return plan.names[0] if u >= 1 - plan.base_share else control_of(plan, withdrawn)
