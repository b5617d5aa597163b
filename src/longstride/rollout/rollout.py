"""A staged roll-out: it chooses who answers a request, takes note of the answers, and decides by itself."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longstride.book import CardBook
from longstride.card import Card
from longstride.errors import InputError, StoreError, unknown
from longstride.rollout.assignment import arm_of, control_of
from longstride.rollout.decisions import judge
from longstride.rollout.evidence import Answer, Measured
from longstride.rollout.plan import STAGES, Arm, Plan, Stage, checked, usual_cap
from longstride.rollout.records import Decision
from longstride.rollout.seen import Seen, arm_named
from longstride.rollout.standing import Standing
from longstride.rollout.store import Store

__all__ = ["Rollout"]

_log = logging.getLogger(__name__)


class Rollout:
    """A roll-out in a store that any number of threads and processes share.

    A service asks :meth:`arm` who answers a request, and tells :meth:`record` how it went. The roll-out goes to the
    next stage when the evidence of a stage is there, and back to the arm before when the new one is surely worse, or at
    once when it returns NaN or infinity. Every decision and its reason is in :meth:`log`.

    Neither method raises for a fault of the store, so no request fails by it: :attr:`trouble` tells the fault. Evidence
    that cannot be kept cannot protect, so the new arm of a roll-out that is under way answers nothing in this process
    until the store can be written again.

    Args:
        store: File of a roll-out that :meth:`start` has started.
        timeout: Seconds that a write waits for the writes of other processes.

    Attributes:
        trouble: The fault of the store that this process has met last, until it is over; None: none.

    Raises:
        StoreError: no store, or no roll-out in it.

    Examples:
        >>> import longstride as ls, pathlib, tempfile
        >>> store = pathlib.Path(tempfile.mkdtemp()) / "rollout.db"
        >>> with ls.Rollout.start(store, new=None) as rollout:
        ...     arm = rollout.arm("request 1")
        ...     decision = rollout.record("request 1", arm, seconds=0.1)
        ...     rollout.rollback("pictures look odd").status
        'rolled back'
    """

    def __init__(self, store: str | Path, *, timeout: float = 5.0) -> None:
        self._store = Store(store, timeout=timeout)
        self._seen = Seen(self._store)
        self.trouble: str | None = None
        self._unreadable = False

    @classmethod
    def start(
        cls,
        store: str | Path,
        new: str | Path | None,
        *,
        old: str | Path | None = None,
        stages: Sequence[Stage] = STAGES,
        tolerances: Mapping[str, float] | None = None,
        false_alarms: float = 0.05,
        base_share: float = 0.0,
        error_cap: float | None = None,
        timeout: float = 5.0,
    ) -> Rollout:
        """Start a roll-out, in a new store or after the last one has ended.

        Args:
            store: File of the store.
            new: File of the new card or book; None: what the service calls ``"new"``.
            old: File of the card that answers now; None: the classical solver answers, as the arm ``"base"``.
            stages: Shares of the new card, and the evidence that each needs.
            tolerances: How much worse the new card may be, by the names in :data:`longstride.rollout.METRICS`.
            false_alarms: Largest probability that a card within all tolerances is ever rolled back.
            base_share: Share of the requests that the classical solver answers beside ``old``, as long as the new card
                leaves as many.
            error_cap: Errors count up to here in their mean; default: 8 times the held-out error of the new card's
                base, or 1 without a card.
            timeout: Seconds that a write waits for the writes of other processes.

        Raises:
            InputError: a number cannot be used, or a roll-out is under way in the store.
            CardError: a file is no card.
            StoreError: the store cannot be made or written.
        """
        arms = [Arm(name="base"), *([Arm.of("old", old)] if old is not None else []), Arm.of("new", new)]
        values: dict[str, Any] = {
            "arms": arms,
            "stages": list(stages),
            "tolerances": dict(tolerances or {}),
            "false_alarms": false_alarms,
            "base_share": base_share,
            "error_cap": usual_cap(arms[::-1]) if error_cap is None else error_cap,
            "salt": secrets.token_hex(8),
        }
        plan = checked(Plan, "the plan of the roll-out", values)
        opened = Store(store, create=True, timeout=timeout)
        try:
            with opened.writing() as work:
                last = work.latest()
                if last is not None and last.status == "running":
                    raise InputError(
                        f"a roll-out is under way in {store}, at stage {last.stage + 1}: promote it to its end or roll "
                        "it back first"
                    )
                number = work.start(plan)
                reason = f"{plan.new} answers {100 * plan.stages[0].share:g} % of the requests"
                work.decide(number, "started", 0, "running", (), reason, {}, "hand")
        finally:
            opened.close()
        return cls(store, timeout=timeout)

    # Requests

    def arm(self, key: str | bytes | int) -> str:
        """Name of the arm that answers the request with this key; reads the store, so a decision holds at once.

        Args:
            key: Of the request, or of its user, who then stays with one arm.
        """
        try:
            last = self._seen.latest()
        except StoreError as error:
            last, self._unreadable = self._seen.last, True
            self._suffer(error)
        else:
            if self._unreadable:
                self._unreadable, self.trouble = False, None
        plan = self._seen.plan_of(last)
        chosen = arm_of(key, plan, last.stage, last.withdrawn)
        unwatched = self.trouble is not None and (self._unreadable or last.status == "running")
        return control_of(plan, last.withdrawn) if chosen == plan.new and unwatched else chosen

    def record(
        self,
        key: str | bytes | int,
        arm: str,
        *,
        flagged: bool | None = None,
        drift: bool | None = None,
        non_finite: bool = False,
        seconds: float | None = None,
        error: float | None = None,
        other_error: float | None = None,
    ) -> Decision | None:
        """Take note of a request that was answered.

        Args:
            key: Of the request, for the log of a fault.
            arm: Who answered.
            flagged: Whether the guard flagged the sample; None: no guard looked.
            drift: Whether the monitor raised its alarm; None: no monitor looked.
            non_finite: Whether the sample held NaN or infinity: the arm is withdrawn at once.
            seconds: Time of the answer.
            error: Error against the converged solution, if it was measured.
            other_error: Error of the arm that the new one is compared with, on the same request.

        Returns:
            The decision that this request led to, or None.

        Raises:
            InputError: no such arm, or a number is negative or NaN.
        """
        answer = Answer(flagged, drift, non_finite, seconds)
        found = None if error is None else Measured(error, other_error)
        return self._take(key, arm, answer, found)

    def measured(
        self, key: str | bytes | int, arm: str, error: float, other_error: float | None = None
    ) -> Decision | None:
        """Take note of the error of a request that was recorded before; arguments and result as in :meth:`record`."""
        return self._take(key, arm, None, Measured(error, other_error))

    def load(self, arm: str) -> Card | CardBook | None:
        """The card of an arm; None: the classical solver.

        Raises:
            InputError: no such arm.
            CardError: the file is missing, is no card, or was changed after the roll-out had started.
        """
        return arm_named(self.plan, arm).load()

    # Decisions by hand

    def promote(self, reason: str = "no reason given") -> Decision:
        """Go to the next stage, or end after the last one, whatever the evidence.

        Raises:
            InputError: the roll-out has ended.
            StoreError: the store cannot be written.
        """
        return self._seen.promote(reason)

    def rollback(self, reason: str = "no reason given", *, to: str | None = None) -> Decision:
        """Withdraw the new arm, and every other one above ``to``; in effect with the next request of every process.

        Args:
            reason: For the log.
            to: The arm that answers from then on; default: the one before the new one.

        Raises:
            InputError: no such arm, or nothing above it answers.
            StoreError: the store cannot be written.
        """
        return self._seen.rollback(reason, to)

    # What is known

    @property
    def plan(self) -> Plan:
        """The plan of the roll-out, as the last request or decision saw it; never fails."""
        return self._seen.plan_of(self._seen.last)

    @property
    def control(self) -> str:
        """The arm that the new one is compared with, and that answers after a rollback; never fails."""
        last = self._seen.last
        return control_of(self._seen.plan_of(last), last.withdrawn)

    def log(self) -> list[Decision]:
        """All decisions in the store, from the first to the last, those of earlier roll-outs too.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._store.log()

    def status(self) -> Standing:
        """Stage, shares, counts and bounds, and what the next decision waits for.

        Raises:
            StoreError: the store cannot be read.
        """
        last = self._seen.latest()
        plan = self._seen.plan_of(last)
        counts, evidence = self._store.known(last.rollout, plan)
        return Standing.of(last, plan, counts, evidence, self.trouble)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> Rollout:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    def _suffer(self, error: StoreError) -> None:
        if self.trouble is None:
            _log.warning("%s; the new card answers nothing in this process until this is over", error)
        self.trouble = str(error)

    def _take(self, key: object, arm: str, answer: Answer | None, found: Measured | None) -> Decision | None:
        if arm not in self._seen.names:
            raise unknown("arm", arm, self._seen.names)
        try:
            with self._store.writing() as work:
                last, plan = self._seen.state(work)
                made = judge(work, last, plan, arm, answer, found)
        except StoreError as error:
            _log.debug("the answer to request %s by %s is not recorded: %s", key, arm, error)
            self._suffer(error)
            return None
        if not self._unreadable:
            self.trouble = None
        if made is not None:
            self._seen.last = made
            _log.warning("roll-out %s, at stage %d: %s", made.action, made.stage + 1, made.reason)
        return made
