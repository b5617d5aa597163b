"""How far long work is, in a log: a line when it begins, and a line every minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["MinuteLog"]

#: Seconds between two lines.
MINUTE = 60.0


class MinuteLog:
    """Says what is being done, how much of it, how long it takes, and how long it will take.

    As a context manager it also speaks while nothing is reported, from a thread of its own.

    Args:
        write: Writes one line.
        clock: Seconds that never go back.
        every: Seconds between two lines.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic, every: float = MINUTE
    ) -> None:
        self.write, self.clock, self.every = write, clock, every
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        #: When each piece of work was first reported, and how much of it was done then.
        self._begun: dict[str, tuple[float, int]] = {}
        self._now: tuple[str, int, int] | None = None
        self._due = clock() + every

    def say(self, what: str, done: int, total: int) -> None:
        """Take note of how far the work is; a piece of work is named when it is reported first."""
        with self._lock:
            if what not in self._begun:
                self._begun[what] = (self.clock(), done)
                self.write(f"{what} …")
                self._due = self.clock() + self.every
            self._now = (what, done, total)
        self.tick()

    def tick(self) -> None:
        """Write a line if the last line is a minute old."""
        with self._lock:
            now = self.clock()
            if self._now is None or now < self._due:
                return
            self._due = now + self.every
            self.write(self._line(*self._now, now))

    def _line(self, what: str, done: int, total: int, now: float) -> str:
        begun, at_first = self._begun[what]
        passed = now - begun
        line = f"{what}: {done:,} of {total:,}, {_duration(passed)}"
        if at_first < done < total:
            line += f", about {_duration(passed * (total - done) / (done - at_first))} left"
        return line

    def __enter__(self) -> MinuteLog:
        self._thread = threading.Thread(target=self._run, name="longstride-minutes", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            self.tick()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _duration(seconds: float) -> str:
    """A duration for people.

    >>> _duration(42), _duration(60 * 7.4), _duration(3600 * 5 + 60 * 3)
    ('42 s', '7 min', '5 h 3 min')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
