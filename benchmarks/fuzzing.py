"""Broken and hostile files of cards and books: each is read, or refused with one clear line.

Valid files are changed in their JSON (values, types, sizes, names, order, nesting) or in their bytes (cuts, flips,
other encodings, archives). Two in three of the files that are changed in their JSON have a checksum that fits: a
checksum protects from accidents, and anyone can make it.
"""

from __future__ import annotations

import base64
import copy
import gzip
import io
import json
import os
import random
import resource
import signal
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.small_work import calibrated, small_book
from longstride.book import CardBook, Unjudged, load_any, load_book
from longstride.card import Card, load_card
from longstride.documents import checksum
from longstride.errors import CardError, InputError, LongstrideError

__all__ = ["Findings", "Mutator", "fuzz", "read_whole", "valid_files"]

#: Longest that one file may take, in seconds.
_TIME_LIMIT = 20.0
#: Larger files, in bytes, are read through one door alone.
_MANY = 100_000
#: In a name: the name is written without it, so that an object has the name twice.
_TWICE = "\x00twice"
#: As a value: a number of more digits than Python reads is written.
_DIGITS = "\x00digits"

_NUMBERS: tuple[Any, ...] = (0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**63, -(2**63), 10**30, 10**400)
_NUMBERS += (_DIGITS, float("nan"), float("inf"), float("-inf"), 1e9, -1e9, 4096, 10**9)
_TEXTS: tuple[Any, ...] = (
    "",
    " ",
    "x",
    "ddim",
    "base",
    "\n",
    "a\nb",
    "\x1b[31mred",
    "\x00",
    "[red]",
    "[/nope]",
    "\ud800",
)
_TEXTS += (
    "\u202e\u200b",
    "ﷺ" * 40,
    "NaN",
    "1",
    "-1",
    "1e5",
    "true",
    "x" * 3000,
    "../../etc/passwd",
    "{}",
    "%s{0}",
    "𝟙",
)
_OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": None}, [None], {"0": 0}, [0, 1, 2], [1e308, -1e308])
#: Changes after which no other one can be made.
_LAST = ("depth",)
_VALUES = (*_NUMBERS, *_TEXTS, *_OTHERS)


def _containers(raw: Any) -> list[Any]:
    """All objects and arrays that hold something."""
    found, waiting = [], [raw]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (dict, list)) and part:
            found.append(part)
            waiting += part.values() if isinstance(part, dict) else part
    return found


class Mutator:
    """Makes files from valid ones.

    Args:
        seed: Of everything that is chosen.
        valid: Texts of valid cards and books.
    """

    def __init__(self, seed: int, valid: Sequence[str]) -> None:
        self.chance, self.valid = random.Random(seed), [json.loads(text) for text in valid]
        self.in_json: dict[str, Callable[[Any], None]] = {
            "a value": self._value,
            "a number": self._number,
            "a text": self._text,
            "a name": self._name,
            "a part left out": self._left_out,
            "a part added": self._added,
            "a name twice": self._twice,
            "parts exchanged": self._exchanged,
            "an array": self._array,
            "depth": self._depth,
            "size": self._size,
        }
        self.in_bytes: dict[str, Callable[[bytes], bytes]] = {
            "cut": lambda data: data[: self.chance.randrange(len(data))],
            "bits": self._bits,
            "a piece": self._piece,
            "another encoding": lambda data: data.decode().encode(
                self.chance.choice(("utf-16", "utf-32", "utf-8-sig"))
            ),
            "an archive": self._archive,
            "no text": lambda data: self.chance.randbytes(self.chance.randrange(200)),
            "a pickle": lambda data: (
                b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
            ),
        }

    def __call__(self) -> tuple[str, bytes]:
        """What was changed, and the file."""
        raw = copy.deepcopy(self.chance.choice(self.valid))
        if self.chance.random() < 0.15:
            kind = self.chance.choice(list(self.in_bytes))
            return f"bytes: {kind}", self.in_bytes[kind](json.dumps(raw).encode())
        kinds = self.chance.choices(list(self.in_json), k=self.chance.choice((1, 1, 1, 2, 4)))
        for kind in sorted(dict.fromkeys(kinds), key=_LAST.count):  # what is deep cannot be copied
            self.in_json[kind](raw)
        if self.chance.random() < 0.67 and isinstance(raw, dict):
            raw.pop("checksum", None)
            try:
                raw["checksum"] = checksum(raw)
            except (ValueError, RecursionError):  # NaN, or too deep
                raw["checksum"] = "sha256:" + "0" * 64
        try:
            text = json.dumps(raw)
        except RecursionError:
            text = "[" * 5000 + "]" * 5000
        text = text.replace(json.dumps(_DIGITS), "9" * 5000)
        return kinds[0], text.replace(json.dumps(_TWICE)[1:-1], "").encode()

    def _place(self, raw: Any) -> tuple[Any, Any]:
        """A container and a key of it."""
        held = self.chance.choice(_containers(raw) or [{"": 0}])
        return held, self.chance.choice(list(held) if isinstance(held, dict) else range(len(held)))

    def _value(self, raw: Any) -> None:
        held, key = self._place(raw)
        held[key] = copy.deepcopy(self.chance.choice(_VALUES))

    def _number(self, raw: Any) -> None:
        for _ in range(50):
            held, key = self._place(raw)
            if isinstance(held[key], (int, float)) and not isinstance(held[key], bool):
                factor = self.chance.choice((-1, 0, 2, 0.5, 1e-9, 1e9, 1e200, 1 + 1e-9))
                held[key] = held[key] + 1 if self.chance.random() < 0.2 else held[key] * factor
                return

    def _text(self, raw: Any) -> None:
        for _ in range(50):
            held, key = self._place(raw)
            if isinstance(held[key], str):
                held[key] = self.chance.choice(_TEXTS)
                return

    def _name(self, raw: Any) -> None:
        held, key = self._place(raw)
        if isinstance(held, dict):
            held[str(self.chance.choice(_VALUES))] = held.pop(key)

    def _left_out(self, raw: Any) -> None:
        held, key = self._place(raw)
        del held[key]

    def _added(self, raw: Any) -> None:
        held, _ = self._place(raw)
        value = copy.deepcopy(self.chance.choice(_VALUES))
        if isinstance(held, dict):
            held[str(self.chance.choice(_VALUES))] = value
        else:
            held.insert(self.chance.randrange(len(held) + 1), value)

    def _twice(self, raw: Any) -> None:
        held, key = self._place(raw)
        if isinstance(held, dict):
            held[f"{key}{_TWICE}"] = copy.deepcopy(self.chance.choice(_VALUES))

    def _exchanged(self, raw: Any) -> None:
        one, mine = self._place(raw)
        other, theirs = self._place(raw)
        one[mine], other[theirs] = copy.deepcopy(other[theirs]), copy.deepcopy(one[mine])

    def _array(self, raw: Any) -> None:
        arrays = [held for held in _containers(raw) if isinstance(held, list)]
        if arrays:
            held = self.chance.choice(arrays)
            change = self.chance.choice(("repeat", "cut", "shuffle", "reverse", "empty"))
            if change == "repeat":
                held *= self.chance.choice((2, 3, 50))
            elif change == "shuffle":
                self.chance.shuffle(held)
            elif change == "reverse":
                held.reverse()
            else:
                del held[0 if change == "empty" else len(held) // 2 :]

    def _depth(self, raw: Any) -> None:
        held, key = self._place(raw)
        value = held[key]
        for _ in range(self.chance.choice((3, 20, 60, 300, 900, 2000))):
            value = {"a": value} if self.chance.random() < 0.5 else [value]
        held[key] = value

    def _size(self, raw: Any) -> None:
        held, key = self._place(raw)
        much = 10 ** self.chance.choices((2, 3, 4, 5), (500, 500, 50, 1))[0]
        kinds: tuple[Any, ...] = ([0.5] * much, [held[key]] * (much // 100), "y" * much)
        kinds += ({str(n): 0.5 for n in range(much)}, [{"states": {"0": 1.0}, "outputs": {}}] * much)
        held[key] = copy.deepcopy(self.chance.choice(kinds))

    def _bits(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 4, 50))):
            changed[self.chance.randrange(len(changed))] ^= 1 << self.chance.randrange(8)
        return bytes(changed)

    def _piece(self, data: bytes) -> bytes:
        a, b, c = sorted(self.chance.randrange(len(data)) for _ in range(3))
        return self.chance.choice(
            (data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:])
        )

    def _archive(self, data: bytes) -> bytes:
        if self.chance.random() < 0.5:
            return gzip.compress(b"\0" * 10**6 + data)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("card.json", b"[" * 10**6)
        return self.chance.choice((packed.getvalue(), base64.b64encode(packed.getvalue())))


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
