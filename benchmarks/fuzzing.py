"""Broken and hostile files of cards and books: each is read, or refused with one clear line."""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.mutations import Mutator
from benchmarks.small_work import calibrated, small_book
from longstride.book import CardBook, load_any, load_book
from longstride.book_parts import Unjudged
from longstride.card import Card, load_card
from longstride.errors import CardError, InputError, LongstrideError

__all__ = ["Findings", "fuzz", "read_whole", "valid_files"]

#: Longest that one file may take, in seconds.
_TIME_LIMIT = 20.0
#: Larger files, in bytes, are read through one door alone.
_MANY = 100_000


def valid_files() -> list[str]:
    """Texts of cards of every method, with and without a guard, and of a book."""
    cards = [calibrated(samples=96, guard_share=0.03), calibrated(nfe=3)]
    cards += [calibrated(method=method) for method in ("iia", "global")]
    return [*(one.card.dumps() for one in cards), small_book().dumps()]


def read_whole(path: Path, show: Callable[[Card | CardBook], object]) -> str:
    """Read a file through every door, and use what is in it.

    Args:
        path: The file.
        show: What ``longstride show`` prints.

    Returns:
        ``"read"``, or ``"refused"``: by one clear line.

    Raises:
        AssertionError: the doors disagree, or the line is none.
    """
    try:
        found = load_any(path)
    except CardError as error:
        line = str(error)
        assert line.isprintable(), f"no clear line: {line!r}"
        assert len(line) < 8000, f"a long line: {line[:200]!r}"
        doors = (load_card, load_book) if path.stat().st_size < _MANY else ()
        for door in doors:
            try:
                door(path)
            except CardError:
                continue
            raise AssertionError(f"{door.__name__} reads what load_any refuses") from error
        return "refused"
    show(found)
    found.save(path)
    assert load_any(path) == found, "it does not come back"
    (_use_book if isinstance(found, CardBook) else _use_card)(found)  # type: ignore[arg-type]
    return "read"


def _use_card(card: Card | Unjudged) -> None:
    """Run the table on a network that returns one value; what overflows is told by the error for it."""
    from longstride.guard import sample

    try:
        sample(lambda x, sigma: torch.zeros_like(x), torch.zeros(2, 3), card if isinstance(card, Card) else card.table)
    except LongstrideError:
        return


def _use_book(book: CardBook) -> None:
    for entry in book.entries[:4]:
        for nfe, guidance in ((entry.nfe, entry.guidance), (entry.nfe + 1, entry.guidance), (entry.nfe, 2.0)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = book.card(nfe, guidance)
            except InputError:
                continue
            _use_card(found)


@dataclass
class Findings:
    """What came of many files.

    Attributes:
        ends: How many files were read, and refused.
        kinds: How many files of every kind of change.
        crashes: The first few errors that are no clear line, with the kind of change.
        crashed: Number of these.
        slowest: Longest time of one file in seconds.
        memory: What reading added to the process's largest memory, in bytes.
    """

    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    crashed: int = 0
    slowest: float = 0.0
    memory: int = 0

    def about(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "inputs": self.kinds.total(),
            "read": self.ends["read"],
            "refused": self.ends["refused"],
            "crashed": self.crashed,
            "crashes": self.crashes,
            "slowest_seconds": round(self.slowest, 2),
            "memory_mib": round(self.memory / 2**20, 1),
            "kinds": dict(sorted(self.kinds.items())),
        }


def fuzz(
    folder: Path,
    valid: Sequence[str],
    show: Callable[[Card | CardBook], object],
    inputs: int,
    seed: int = 0,
    say: Callable[[int, Findings], object] = lambda done, found: None,
) -> Findings:
    """Make files and read them.

    Args:
        folder: Where the file of the moment lies; a file that crashes a reader stays there.
        valid: Texts of valid files.
        show: See :func:`read_whole`.
        inputs: Number of files.
        seed: Of the files.
        say: Called after every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, make, path = Findings(), Mutator(seed, valid), folder / "input.json"
    before = _largest_memory()

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"more than {_TIME_LIMIT:g} seconds")

    old = signal.signal(signal.SIGALRM, too_slow)
    try:
        for number in range(inputs):
            kind, content = make()
            path.write_bytes(content)
            found.kinds[kind] += 1
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, _TIME_LIMIT)
            try:
                found.ends[read_whole(path, show)] += 1
            except Exception as error:
                found.crashed += 1
                if len(found.crashes) < 20:
                    what = str(error).replace(f"{folder}{os.sep}", "")  # no path of the machine in results
                    found.crashes.append(f"{kind}: {type(error).__name__}: {what}"[:500])
                    (folder / f"crash_{number}.json").write_bytes(content)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            found.slowest = max(found.slowest, time.perf_counter() - start)
            found.memory = _largest_memory() - before
            say(number + 1, found)
    finally:
        signal.signal(signal.SIGALRM, old)
        path.unlink(missing_ok=True)
    return found


def _largest_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
