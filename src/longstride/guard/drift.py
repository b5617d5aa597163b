r"""Drift in a stream: changes that are too small for one window, and stay.

The detector of Shiryaev and Roberts counts how often something happens that clean runs do rarely: a score among the
largest or the least tenth of the clean scores, a window whose shift only a fifth of clean windows exceed. With
:math:`x_t` in {0, 1} and likelihood ratios against a clean share :math:`p_0`,

.. math:: R_t^j = (1 + R_{t-1}^j) \frac{p_j^{x_t} (1 - p_j)^{1 - x_t}}{p_0^{x_t} (1 - p_0)^{1 - x_t}},
          \qquad \text{alarm if } \frac1J \sum_j R_t^j \ge A.

The ratios have a mean of at most 1 as long as the true clean share is at most :math:`p_0`. Then alarms come A steps
apart or more in the mean, however long the stream is. So :math:`p_0` is the 97.5 % bound of Clopper and Pearson on the
share that the clean runs showed, and for windows, whose law is extrapolated, a half more than its share.

Detectors that learn the state before a change from the stream itself, such as ADWIN, Page–Hinkley and KSWIN of the
library river, were not taken. The card knows that state, and their false alarms have no such bound.

References:
    Roberts, A comparison of some control chart procedures, 1966; Shiryaev, On optimum methods in quickest detection
    problems, 1963; Shin, Ramdas & Rinaldo, E-detectors, 2024, Sec. 2 (the bound).
"""

from __future__ import annotations

import math

from longstride.guard.bound import upper_share
from longstride.guard.normal import Normal

__all__ = ["Drift"]

#: Share of clean scores at either end, of clean windows by their shift, and what is assumed of windows at most.
_TENTH, _FIFTH, _AT_MOST = 0.1, 0.2, 0.3
_CONFIDENCE = 0.975
#: Alternatives to a clean share p: ``p + part * (1 - p)``.
_PARTS = (0.1, 0.3, 0.7)


class _Count:
    """One detector.

    Args:
        clean: The clean share at most.
        steps: Mean number of steps between false alarms, at least.
    """

    def __init__(self, clean: float, steps: float) -> None:
        others = [clean + part * (1 - clean) for part in _PARTS]
        self._seen, self._unseen = [p / clean for p in others], [(1 - p) / (1 - clean) for p in others]
        self._alarm, self._values = steps, [0.0] * len(others)

    def step(self, seen: bool) -> bool:
        """Take a step; True and a new start at an alarm."""
        ratios = self._seen if seen else self._unseen
        self._values = [(1 + value) * ratio for value, ratio in zip(self._values, ratios, strict=True)]
        alarm = self._value >= self._alarm
        if alarm:
            self._values = [0.0] * len(ratios)
        return alarm

    @property
    def _value(self) -> float:
        return math.fsum(self._values) / len(self._values)

    @property
    def near(self) -> float:
        """How near an alarm is, from 0 to 1, on a logarithmic scale."""
        return math.log1p(self._value) / math.log1p(self._alarm)


class Drift:
    """The detectors of a monitor.

    Args:
        normal: Clean runs.
        false_alarms: Alarms per window in the mean, at most.
        window: Samples of a window.
    """

    def __init__(self, normal: Normal, false_alarms: float, window: int) -> None:
        tail = math.ceil(_TENTH * normal.samples)
        clean, steps = upper_share(tail, normal.samples, _CONFIDENCE), 3 / false_alarms
        self.high, self.low = (_Count(clean, steps * window) for _ in range(2))
        self.shift = _Count(_AT_MOST, steps)

    def sample(self, rank: float) -> bool:
        """Take the rank of a score among the clean scores; whether there is an alarm."""
        high, low = self.high.step(rank > 1 - _TENTH), self.low.step(rank < _TENTH)
        return high or low

    def window(self, above: float) -> bool:
        """Take the share of clean windows with a larger shift; whether there is an alarm."""
        return self.shift.step(above < _FIFTH)

    @property
    def near(self) -> float:
        """How near the next alarm is, from 0 to 1, on a logarithmic scale."""
        return max(one.near for one in (self.high, self.low, self.shift))
