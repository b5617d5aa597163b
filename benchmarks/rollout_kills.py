"""Processes that write a roll-out's store are killed at random moments, and the store is read again.

What was acknowledged must be there: a process tells every write that has returned through a pipe, so the store may hold
one write more than was told, which is the one that was under way, and never one less.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from longstride.rollout import Rollout, Stage

__all__ = ["forked", "kill_at_random"]

_STAGES = (Stage(share=0.3, requests=40), Stage(share=0.6, requests=40), Stage(share=1.0, requests=40))


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Start ``work(pipe)`` in a child process; returns its number and the end of the pipe to read.

    Args:
        work: Gets the file descriptor to write to; the child ends with it.
    """
    readable, writable = os.pipe()
    with warnings.catch_warnings():  # the child starts no thread, and takes no lock of another one
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        os.close(writable)
        return child, readable
    code = 1
    try:
        os.close(readable)
        work(writable)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _write_until_killed(store: Path, seed: int, pipe: int) -> None:
    """Record requests, decide by hand now and then, start again after an end; one letter per write that returned."""
    chance = random.Random(seed)
    rollout = Rollout(store)
    for n in range(1_000_000):
        status = rollout.status().status if n % 50 == 0 else "running"
        if status != "running":
            rollout.close()
            rollout = Rollout.start(store, None, stages=_STAGES)
            os.write(pipe, b"d")
        elif chance.random() < 0.02 and rollout.status().status == "running":
            rollout.rollback("drill") if chance.random() < 0.3 else rollout.promote("drill")
            os.write(pipe, b"d")
        else:
            arm, error = chance.choice(("base", "new")), chance.choice((None, chance.random()))
            made = rollout.record(n, arm, seconds=chance.random(), flagged=chance.random() < 0.05, error=error)
            if rollout.trouble is not None:
                raise RuntimeError(rollout.trouble)
            os.write(pipe, b"r" if made is None else b"b")


def kill_at_random(folder: Path, times: int, seed: int = 0, most_seconds: float = 0.4) -> dict[str, Any]:
    """Kill a writing process ``times`` times with SIGKILL, each after a random time, and count what is lost.

    Args:
        folder: Where the store is made.
        times: Number of processes.
        seed: Of the times and of what is written.
        most_seconds: Longest life of a process.

    Returns:
        Counts: kills, writes and decisions that were acknowledged, those that are lost, writes that were under way and
        are there, and stores that were damaged.
    """
    store, chance = folder / "rollout.db", random.Random(seed)
    Rollout.start(store, None, stages=_STAGES).close()
    found = dict.fromkeys(("kills", "requests", "decisions", "lost", "under_way", "damaged"), 0)
    known = (0, 1)
    for number in range(times):
        child, pipe = forked(partial(_write_until_killed, store, seed + number))
        time.sleep(chance.uniform(0.02, most_seconds))
        os.kill(child, signal.SIGKILL)
        _, how = os.waitpid(child, 0)
        with os.fdopen(pipe, "rb") as told:
            letters = told.read()
        if os.WTERMSIG(how) != signal.SIGKILL:
            raise RuntimeError(f"a writer ended by itself, with {how}")
        requests = letters.count(b"r") + letters.count(b"b")
        decisions = letters.count(b"d") + letters.count(b"b")
        now = _content(store)
        more = (now[0] - known[0] - requests, now[1] - known[1] - decisions)
        found["kills"] += 1
        found["requests"] += requests
        found["decisions"] += decisions
        found["lost"] += sum(max(0, -n) for n in more)
        found["under_way"] += int(any(n > 0 for n in more))
        found["damaged"] += int(not _sound(store) or any(n > 1 for n in more))
        known = now
    return found


def _content(store: Path) -> tuple[int, int]:
    """Requests and decisions in the store."""
    with Rollout(store) as rollout:
        decisions = rollout.log()
    connection = sqlite3.connect(store)
    try:
        (requests,) = connection.execute("SELECT coalesce(sum(requests), 0) FROM counts").fetchone()
    finally:
        connection.close()
    return requests, len(decisions)


def _sound(store: Path) -> bool:
    connection = sqlite3.connect(store)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        connection.close()
