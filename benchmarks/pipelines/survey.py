"""The survey: every pipeline class in a process of its own, with a time limit, and finished classes kept in a file."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.pipelines.catalogue import Entry, Tester
from benchmarks.pipelines.parts import NotBuilt, build
from benchmarks.pipelines.records import KINDS, TRIALS, Outcome, Record, load_records, of_error, save_records
from benchmarks.pipelines.trials import trials_of

__all__ = ["Say", "run_survey"]

#: Told of a class that is finished: its place, from 1, the number of classes, and its record.
Say = Callable[[int, int, Record], None]
#: Longest time of a class on the clock, in units of its processor time: other processes may be busy.
_SLOW = 20
_TOO_SLOW = Outcome("too slow", "not finished within the time limit")


def run_survey(
    entries: Sequence[Entry],
    known: Mapping[str, Sequence[Tester]],
    work: Path,
    *,
    limit: int,
    kinds: Sequence[str] = tuple(KINDS),
    say: Say = lambda place, total, record: None,
) -> list[Record]:
    """Try pipeline classes one after the other.

    Args:
        entries: The classes.
        known: Classes of tests by the name of the pipeline.
        work: File that keeps finished classes; a class that it holds with all of the trials is not tried again.
        limit: Most seconds of processor time of one class.
        kinds: Kinds of trials, see :data:`~benchmarks.pipelines.records.KINDS`.
        say: Told of every class.

    Returns:
        The records, in the order of ``entries``.
    """
    done = {record.name: record for record in load_records(work)} if work.exists() else {}
    for place, entry in enumerate(entries):
        record = done.get(entry.name)
        missing = [kind for kind in kinds if record is None or set(KINDS[kind]) - set(record.trials)]
        if record is None or (record.reason is None and missing):
            fresh = _tried(entry, known, limit, missing)
            fresh.trials = {**({} if record is None else record.trials), **fresh.trials}
            record = done[entry.name] = fresh
            save_records(work, list(done.values()), {})
        say(place + 1, len(entries), record)
    return [done[entry.name] for entry in entries]


def _tried(entry: Entry, known: Mapping[str, Sequence[Tester]], limit: int, kinds: Sequence[str]) -> Record:
    """The record of a class, made by a process that is stopped after ``limit`` seconds of processor time."""
    context = multiprocessing.get_context("fork")  # a process that has imported everything
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(entry, known, kinds, limit, theirs), daemon=True)
    process.start()
    theirs.close()
    record = Record(entry.name, entry.family, entry.modular)
    ended = _listen(record, mine, time.monotonic() + _SLOW * limit)
    if ended is not None:
        process.kill()
    process.join()
    mine.close()
    if process.exitcode == -signal.SIGXCPU:
        ended = _TOO_SLOW
    for name in () if record.reason else (name for kind in kinds for name in KINDS[kind]):
        if name not in record.trials:
            record.trials[name] = ended or Outcome("fault", f"the process ended with {process.exitcode}")
            ended = Outcome("not tried", "the trial before was not finished")
    return record


def _listen(record: Record, mine: Connection, until: float) -> Outcome | None:
    """Fill a record with what its process tells, until the process ends. Returns what ended it from here, or None."""
    while mine.poll(max(0.0, until - time.monotonic())):
        try:
            name, value = mine.recv()
        except EOFError:
            return None
        if name in TRIALS:
            record.trials[name] = value
        else:
            setattr(record, name, value)
    return _TOO_SLOW


def _child(
    entry: Entry, known: Mapping[str, Sequence[Tester]], kinds: Sequence[str], limit: int, tell: Connection
) -> None:
    spent = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + limit, spent + limit + 5))
    _be_quiet()
    try:
        built = build(entry, known)
    except NotBuilt as error:
        tell.send(("reason", str(error)))
        return
    try:
        for name, value in trials_of(built, kinds):
            tell.send((name, value))
    except Exception as error:  # of a trial itself: it must not be taken for the pipeline's
        tell.send(("reason", f"the trial failed: {of_error(error).remark}"))


def _be_quiet() -> None:
    """Send what the pipelines write to where nobody reads it: bars, and tracebacks of errors that are told anyway."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
