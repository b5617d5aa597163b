r"""What is compared between the new arm and the arm before it, each as a bounded share.

A comparison is between two answers: to the same request where both were measured, else to a request of the new arm and
the latest request of the other one, each used once. Neighbours in time see the same load and the same hour. If the two
arms do not differ, the two values of a pair can be swapped, and the share below is exactly one half.

=============  ======================================  ===================================================
unit           pair (a, b) of :class:`.Bounds`         value from the share m
=============  ======================================  ===================================================
``ratio``      :math:`x / (x + y)`, its complement     :math:`m / (1 - m)`, the typical ratio of x to y
``mean``       x and y, both capped and scaled         :math:`m / (1 - m)`, the ratio of their means
``extra``      :math:`(1 + x - y) / 2`, complement     :math:`2 m - 1`, so much more often
``rate``       x, its complement                       m
=============  ======================================  ===================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "MUCH_WORSE", "Metric"]

#: A sample is much worse if its error is more than so many times as the other arm's on the same request.
MUCH_WORSE = 4.0


@dataclass(frozen=True)
class Metric:
    """A comparison.

    Attributes:
        what: Words for it.
        unit: What its value means.
        tolerance: How much worse the new arm may be by default.
    """

    what: str
    unit: Literal["ratio", "mean", "extra", "rate"]
    tolerance: float

    @property
    def least(self) -> float:
        """Least value."""
        return -1.0 if self.unit == "extra" else 0.0

    @property
    def most(self) -> float:
        """Value that is out of reach."""
        return math.inf if self.unit in ("ratio", "mean") else 1.0

    def value(self, share: float) -> float:
        """Value from a share of :class:`.Bounds`."""
        if self.unit == "extra":
            return 2 * share - 1
        if self.unit == "rate":
            return share
        return share / (1 - share) if share < 1 else math.inf

    def share(self, value: float) -> float:
        """Share of :class:`.Bounds` from a value."""
        if self.unit == "extra":
            return (1 + value) / 2
        return value if self.unit == "rate" else value / (1 + value)

    def number(self, value: float | None) -> str:
        """The value in short; None stands for an infinite ratio."""
        if value is None or math.isinf(value):
            return "∞"
        if self.unit in ("ratio", "mean"):
            return f"{value:.3g} ×"
        sign = "+" if self.unit == "extra" else ""
        return f"{100 * value:{sign}.3g} %"

    def written(self, value: float) -> str:
        """The value in words."""
        if self.unit in ("ratio", "mean"):
            return f"{value:.3g} times" if math.isfinite(value) else "any number of times"
        return self.number(value)


#: All comparisons, by name.
METRICS: dict[str, Metric] = {
    "flags": Metric("samples that the guard flags", "extra", 0.05),
    "drift": Metric("alarms of drift", "extra", 0.02),
    "latency": Metric("seconds per request", "ratio", 1.25),
    "error": Metric("typical error", "ratio", 1.0),
    "mean_error": Metric("mean error", "mean", 1.0),
    "much_worse": Metric(f"samples {MUCH_WORSE:g} times as far off", "rate", 0.02),
}
