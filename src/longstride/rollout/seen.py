"""What a process knows of the roll-out in a store, its plans and its last decision, and decisions by hand."""

from __future__ import annotations

import threading

from longstride.errors import InputError, StoreError, unknown
from longstride.rollout.assignment import control_of
from longstride.rollout.decisions import promote, withdraw
from longstride.rollout.plan import Arm, Plan
from longstride.rollout.records import Decision
from longstride.rollout.store import Store
from longstride.rollout.writing import Writing

__all__ = ["Seen", "arm_named"]


class Seen:
    """The plans of a store, which never change, and the last decision that this process has seen.

    Args:
        store: The store; it is closed if no roll-out was started in it.

    Attributes:
        store: The store.
        last: The last decision that was seen.

    Raises:
        StoreError: no roll-out was started.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock, self._plans = threading.Lock(), dict[int, Plan]()
        first = store.latest()
        if first is None:
            store.close()
            raise StoreError(f"no roll-out was started in {store.path}: longstride rollout start does")
        self.last: Decision = first
        self.plan_of(first)

    def plan_of(self, decision: Decision) -> Plan:
        """The plan that a decision belongs to."""
        with self._lock:
            if decision.rollout not in self._plans:
                self._plans[decision.rollout] = self.store.plan(decision.rollout)
            return self._plans[decision.rollout]

    @property
    def names(self) -> set[str]:
        """Names of the arms of all plans that were seen: an arm of an earlier roll-out may still be answering."""
        with self._lock:
            return {name for plan in self._plans.values() for name in plan.names}

    def latest(self) -> Decision:
        """The last decision in the store.

        Raises:
            StoreError: the store cannot be read, or holds no roll-out any more.
        """
        last = self.store.latest()
        if last is None:
            raise self._gone()
        self.plan_of(last)
        self.last = last
        return last

    def state(self, work: Writing) -> tuple[Decision, Plan]:
        """The last decision in a transaction, and its plan.

        Raises:
            StoreError: the store holds no roll-out any more.
        """
        last = work.latest()
        if last is None:
            raise self._gone()
        return last, self.plan_of(last)

    def promote(self, reason: str) -> Decision:
        """See :meth:`longstride.Rollout.promote`."""
        with self.store.writing() as work:
            last, plan = self.state(work)
            if last.status != "running":
                raise InputError(f"the roll-out has ended ({last.status}): start another one")
            made = promote(work, last, plan, reason, work.evidence(last.rollout, plan), "hand")
        self.last = made
        return made

    def rollback(self, reason: str, to: str | None) -> Decision:
        """See :meth:`longstride.Rollout.rollback`."""
        with self.store.writing() as work:
            last, plan = self.state(work)
            kept = control_of(plan, last.withdrawn) if to is None else arm_named(plan, to).name
            above = plan.names[plan.names.index(kept) + 1 :]
            if not set(above) - set(last.withdrawn):
                raise InputError(f"nothing above {kept} answers requests: there is nothing to roll back")
            made = withdraw(work, last, plan, above, reason, work.evidence(last.rollout, plan), "hand")
        self.last = made
        return made

    def _gone(self) -> StoreError:
        return StoreError(f"the store {self.store.path} holds no roll-out any more")


def arm_named(plan: Plan, name: str) -> Arm:
    """The arm of a plan with this name.

    Raises:
        InputError: there is none.
    """
    found = next((arm for arm in plan.arms if arm.name == name), None)
    if found is None:
        raise unknown("arm", name, plan.names)
    return found
