"""How far long work is, in a log."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from rich.console import Console

from longstride.cli import common
from longstride.cli.common import progress_bars
from longstride.cli.minutes import MinuteLog


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> tuple[MinuteLog, Clock, list[str]]:
    clock, lines = Clock(), list[str]()
    return MinuteLog(lines.append, clock), clock, lines


def test_a_line_at_the_start_and_one_every_minute(told: tuple[MinuteLog, Clock, list[str]]):
    log, clock, lines = told
    for second in range(0, 181, 10):
        clock.now = 1000.0 + second
        log.say("fitting", second // 10, 54)
    assert lines == [
        "fitting …",
        "fitting: 6 of 54, 1 min, about 8 min left",
        "fitting: 12 of 54, 2 min, about 7 min left",
        "fitting: 18 of 54, 3 min, about 6 min left",
    ]


def test_work_that_reports_nothing_is_told_too(told: tuple[MinuteLog, Clock, list[str]]):
    """A single piece that takes an hour has no time left that could be known."""
    log, clock, lines = told
    log.say("converging", 0, 3)
    for minute in (1, 2, 61):
        clock.now = 1000.0 + 60 * minute
        log.tick()
        log.tick()
    assert lines[1:] == [f"converging: 0 of 3, {passed}" for passed in ("1 min", "2 min", "1 h 1 min")]


def test_work_that_went_on_counts_from_where_it_was(told: tuple[MinuteLog, Clock, list[str]]):
    log, clock, lines = told
    log.say("evaluating", 900, 1000)  # nine tenths were done before
    clock.now += 100
    log.say("evaluating", 950, 1000)
    assert lines[-1] == "evaluating: 950 of 1,000, 2 min, about 2 min left"


def test_what_is_done_and_what_comes_next(told: tuple[MinuteLog, Clock, list[str]]):
    log, clock, lines = told
    log.say("converging", 0, 2)
    clock.now += 59
    log.say("converging", 2, 2)
    log.say("fitting", 0, 10)
    clock.now += 59
    log.say("fitting", 1, 10)
    assert lines == ["converging …", "fitting …"]
    clock.now += 1
    log.say("fitting", 1, 10)
    assert lines[-1] == "fitting: 1 of 10, 1 min, about 9 min left"


def test_a_thread_speaks_while_the_work_is_silent():
    spoken = threading.Event()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            spoken.set()

    with MinuteLog(write, every=0.01) as log:
        log.say("drawing", 0, 2)
        assert spoken.wait(60)
    after = len(lines)
    assert all(line.startswith("drawing: 0 of 2") for line in lines[1:])
    log.tick()  # nothing is written by a thread that has ended
    assert len(lines) <= after + 1
    assert "longstride-minutes" not in {thread.name for thread in threading.enumerate()}


def test_a_log_names_every_piece_of_work(monkeypatch: pytest.MonkeyPatch):
    """And what looks like markup is a name."""
    stream = io.StringIO()
    monkeypatch.setattr(common, "errors", Console(file=stream))
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bars() as say:
        say("[bold]x", 0, 2)
        say("[bold]x", 2, 2)
        say("y", 0, 1)
    assert stream.getvalue() == "[bold]x …\ny …\n"
