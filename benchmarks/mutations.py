"""Broken and hostile files of cards and books, made from valid ones.

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
import random
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from longstride.documents import checksum

__all__ = ["Mutator"]

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
