"""What a monitor sees, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longstride.arrays import Array

__all__ = ["MonitorReport", "Policy", "Seen", "Window"]

#: ``observe``: only the report tells. ``warn``: a warning at every alarm. ``fallback``: the base makes samples again
#: that raise an alarm. ``raise``: :class:`~longstride.MonitorError` at every alarm.
Policy = Literal["observe", "warn", "fallback", "raise"]


@dataclass(frozen=True)
class Window:
    """A window of samples, and how it compares with clean windows.

    Attributes:
        shift: T, how far the mean of its samples is off.
        above: Share of clean windows with a larger shift.
        spread: Mean rank of its scores among the clean scores; 1/2 in the mean over clean windows.
        alarm: Whether a threshold is exceeded.
        unusual: The statistics that are farthest off in its mean, with their mean deviation in deviations of clean
            runs, cut to six of these, such as ``("noise 3", -4.2)``.
    """

    shift: float
    above: float
    spread: float
    alarm: bool
    unusual: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a monitor saw in the samples of one call.

    Attributes:
        scores: Scores of the samples, ``(B,)``; infinite if a sample is not finite.
        alarms: Samples that raise an alarm by themselves, ``(B,)``; samples that are not finite do.
        again: Samples that the base is to make again, ``(B,)``: with the policy ``"fallback"`` samples with an alarm,
            and samples of a window with an alarm or after it until a window without one. With the other policies
            samples that are not finite.
        windows: Windows that ended in this call.
        drift: Whether the stream raised its alarm.
    """

    scores: Array
    alarms: NDArray[np.bool_]
    again: NDArray[np.bool_]
    windows: tuple[Window, ...]
    drift: bool

    @property
    def finite(self) -> bool:
        """Whether all samples are finite."""
        return bool(np.isfinite(self.scores).all())

    @property
    def alarm(self) -> bool:
        """Whether there is any alarm."""
        return bool(self.alarms.any()) or self.drift or any(one.alarm for one in self.windows)


@dataclass(frozen=True)
class MonitorReport:
    """What a monitor saw so far, as plain data: ``json.dumps(dataclasses.asdict(report))``.

    Attributes:
        policy: What is done at an alarm.
        false_alarms: Declared share of clean samples, and of clean windows, that raise an alarm.
        window: Samples of a window.
        clean_runs: Number of clean runs on the card.
        score_above: Threshold of a sample's score, and ``score_how``: whether it is a ``"conformal"`` quantile of the
            clean runs, or ``"extrapolated"``.
        score_how: See ``score_above``.
        shift_above: Threshold of a window's shift.
        spread_within: Least and greatest mean rank of a window without alarm.
        samples: Samples so far.
        non_finite: Samples that were not finite.
        sample_alarms: Samples that raised an alarm by themselves, samples that were not finite among them.
        windows: Windows so far.
        window_alarms: Windows that raised an alarm.
        drift_alarms: Alarms of the stream.
        again: Samples that the base was to make again.
        alarm_stands: Whether the last window, or the stream since then, raised an alarm.
        drift_near: How near the stream is to an alarm, from 0 to 1, on a logarithmic scale.
        last: The last window, or None.
        last_alarm: The last window with an alarm, or None.
    """

    policy: Policy
    false_alarms: float
    window: int
    clean_runs: int
    score_above: float
    score_how: str
    shift_above: float
    spread_within: tuple[float, float]
    samples: int = 0
    non_finite: int = 0
    sample_alarms: int = 0
    windows: int = 0
    window_alarms: int = 0
    drift_alarms: int = 0
    again: int = 0
    alarm_stands: bool = False
    drift_near: float = 0.0
    last: Window | None = None
    last_alarm: Window | None = None
