"""How long work takes that may be killed and go on: the time of all starts, to about a second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from longstride.files import write_atomically

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up seconds in a file.

    Args:
        file: Keeps the seconds and the number of starts.
        clock: Seconds that never go back.
        every: Seconds between two writes; a kill loses no more.

    Attributes:
        starts: How often work was started, this time included.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic, every: float = 1.0) -> None:
        self._file, self._clock, self._every = file, clock, every
        self._before, self.starts = 0.0, 1
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            self._before, self.starts = float(kept["seconds"]), int(kept["starts"]) + 1
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the first start, or a damaged file: the time counts from now on
        self._begun = self._written = clock()
        self._write()

    @property
    def seconds(self) -> float:
        """Seconds so far, over all starts."""
        return self._before + self._clock() - self._begun

    def tick(self) -> None:
        """Keep the seconds, if the last write is long enough ago."""
        if self._clock() - self._written >= self._every:
            self._write()

    def stop(self) -> float:
        """Keep and return the seconds."""
        self._write()
        return self.seconds

    def _write(self) -> None:
        self._written = self._clock()
        write_atomically(self._file, json.dumps({"seconds": self.seconds, "starts": self.starts}).encode())
