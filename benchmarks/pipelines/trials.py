"""The trials of one pipeline, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.pipelines.calibrating import calibration_trials
from benchmarks.pipelines.commanding import command_trial
from benchmarks.pipelines.parts import Built
from benchmarks.pipelines.sampling import Drawing, sampling_trial
from longstride.errors import LongstrideError
from longstride.integrations.diffusers import LongstrideScheduler

__all__ = ["trials_of"]


def trials_of(built: Built, wanted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is found for a pipeline, as it is found.

    Args:
        built: The pipeline.
        wanted: Kinds of trials, see :data:`~benchmarks.pipelines.records.KINDS`.

    Yields:
        ``scheduler``, ``process`` or ``reason`` with their text, and names of trials with their outcomes.
    """
    own = getattr(built.pipeline, "scheduler", None)
    if own is None:
        yield "reason", "it has no scheduler"
        return
    yield "scheduler", type(own).__name__
    yield "process", _process(own)
    drawing = Drawing(built)
    if drawing.failure is not None:
        yield "reason", f"it does not run here with its own scheduler: {drawing.failure}"
        return
    if "sampling" in wanted:
        yield "sampling", sampling_trial(drawing)
    if "calibration" in wanted:
        yield from calibration_trials(drawing)
    if "command" in wanted:
        yield "command", command_trial(drawing)


def _process(scheduler: Any) -> str | None:
    try:
        return str(LongstrideScheduler.from_config(scheduler.config, solver="ddim").process)
    except LongstrideError:
        return None
