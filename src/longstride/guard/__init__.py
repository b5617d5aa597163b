"""The guard: statistics of a run at no network call, a score of samples, and the base for the samples it flags."""

from longstride.guard.guarded import Guarded, sample, sample_guarded
from longstride.guard.score import Guard
from longstride.guard.statistics import Recorder

__all__ = ["Guard", "Guarded", "Recorder", "sample", "sample_guarded"]
