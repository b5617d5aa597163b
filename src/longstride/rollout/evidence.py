"""The evidence of a roll-out: what requests told, as numbers of fixed size, whatever their count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from longstride.errors import InputError
from longstride.rollout.bounds import Bounds
from longstride.rollout.metrics import METRICS, MUCH_WORSE
from longstride.rollout.plan import Plan

__all__ = ["Answer", "Evidence", "Measured"]


@dataclass(frozen=True)
class Measured:
    """Errors of one request against its converged solution.

    Attributes:
        error: Error of the sample that was served; infinite for a sample with NaN or infinity.
        other: Error of the arm that it is compared with, on the same request; None: not measured.
    """

    error: float
    other: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("error", self.error), ("other", self.other)):
            if value is not None and not value >= 0:
                raise InputError(f"{name} must be a number of at least 0, got {value}")


@dataclass(frozen=True)
class Answer:
    """What is known of one request that was answered.

    Attributes:
        flagged: Whether the guard flagged the sample; None: no guard looked.
        drift: Whether the monitor raised its alarm; None: no monitor looked.
        non_finite: Whether the sample held NaN or infinity.
        seconds: Time of the answer; None: not taken.
    """

    flagged: bool | None = None
    drift: bool | None = None
    non_finite: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise InputError(f"seconds must be a finite number of at least 0, got {self.seconds}")

    def values(self) -> dict[str, float]:
        """What can be compared, by the names of the comparisons."""
        found = {"flags": self.flagged, "drift": self.drift, "latency": self.seconds}
        return {name: float(value) for name, value in found.items() if value is not None}


@dataclass
class Evidence:
    """Bounds of all comparisons, and values of the other arm that wait for their pair.

    Attributes:
        plan: Gives the level and the marks of the bounds.
        kept: The bounds as bytes, by name; see :meth:`.Bounds.dumps`.
        pending: Latest value of the other arm that was in no pair yet, by the name of the comparison.
        changed: Names of the bounds that have changed since the evidence was read.
    """

    plan: Plan
    kept: Mapping[str, bytes] = field(default_factory=dict)
    pending: dict[str, float] = field(default_factory=dict)
    changed: dict[str, Bounds] = field(default_factory=dict)

    def bounds(self, name: str) -> Bounds:
        """Bounds of the comparison ``name``, or of the mean error of an arm, ``"mean_error/ARM"``."""
        if name in self.changed:
            return self.changed[name]
        fresh = Bounds(self.plan.level, self.plan.marks(name) if name in METRICS else ())
        return fresh.loads(self.kept[name]) if name in self.kept else fresh

    def _see(self, name: str, a: float, b: float | None = None) -> None:
        bounds = self.changed[name] = self.bounds(name)
        bounds.see(a, b)

    def _compare(self, name: str, x: float, y: float) -> None:
        """Take the value ``x`` of the new arm and ``y`` of the other one."""
        if METRICS[name].unit == "extra":
            self._see(name, (1 + x - y) / 2)
        elif x != y:
            self._see(name, 1.0 if math.isinf(x) else x / (x + y))
        elif x == 0 or math.isfinite(x):
            self._see(name, 0.5)  # equal, two zeros among them; two infinite values tell nothing

    def _unpaired(self, values: Mapping[str, float], *, new: bool) -> None:
        for name, value in values.items():
            if not new:
                self.pending[name] = value
            elif name in self.pending:
                self._compare(name, value, self.pending.pop(name))

    def answered(self, answer: Answer, *, new: bool) -> None:
        """Take an answer of the new arm, or of the arm that it is compared with."""
        self._unpaired(answer.values(), new=new)

    def measured(self, arm: str, found: Measured, *, new: bool) -> None:
        """Take the errors of a request.

        Args:
            arm: The arm that answered.
            found: The errors.
            new: Whether that is the new arm. Of the arm that it is compared with, the errors serve as the other side of
                a later request without a pair of its own.
        """
        cap = self.plan.error_cap
        self._see(f"mean_error/{arm}", min(found.error, cap) / cap)
        if not new:
            self._unpaired({"error": found.error}, new=False)
            return
        if found.other is None:
            self._unpaired({"error": found.error}, new=True)
            return
        if math.isinf(found.error) and math.isinf(found.other):
            return
        self._compare("error", found.error, found.other)
        self._see("mean_error", min(found.error, cap) / cap, min(found.other, cap) / cap)
        self._see("much_worse", float(found.error > MUCH_WORSE * found.other))

    def harm(self) -> str | None:
        """The first comparison in which the new arm is surely worse than its tolerance, in words; None: none."""
        for name in METRICS:
            if name not in self.changed:
                continue
            metric, bounds, tolerance = METRICS[name], self.changed[name], self.plan.tolerance(name)
            if bounds.lower >= metric.share(tolerance) and bounds.lower > 0:
                return (
                    f"{metric.what}: at least {metric.written(metric.value(bounds.lower))}, and "
                    f"{metric.written(tolerance)} is allowed ({bounds.count} pairs)"
                )
        return None

    def open_bounds(self, at_most: Mapping[str, float]) -> list[str]:
        """What the upper bounds have not come down to yet, in words."""
        waiting = []
        for name, value in at_most.items():
            metric, bounds = METRICS[name], self.bounds(name)
            if bounds.upper > metric.share(value):
                waiting.append(
                    f"{metric.what}: at most {metric.written(metric.value(bounds.upper))} so far, to be at most "
                    f"{metric.written(value)}"
                )
        return waiting
