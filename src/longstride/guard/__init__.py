"""The guard and the monitor: statistics of a run at no network call, and what follows from them.

A guard scores samples, and the base makes again what it flags. A monitor compares runs with clean runs.
"""

from longstride.guard.guarded import Guarded, sample, sample_guarded
from longstride.guard.monitor import Monitor
from longstride.guard.normal import Normal
from longstride.guard.score import Guard
from longstride.guard.seen import MonitorReport, Seen
from longstride.guard.statistics import Recorder

__all__ = [
    "Guard",
    "Guarded",
    "Monitor",
    "MonitorReport",
    "Normal",
    "Recorder",
    "Seen",
    "sample",
    "sample_guarded",
]
