"""The errors that longstride raises: each names the fault, the expected value, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CardError",
    "InputError",
    "LongstrideError",
    "MonitorError",
    "NonFiniteError",
    "StoreError",
    "not_taken",
    "one_line",
    "unknown",
]

#: Characters of a message that quotes a file, before escapes.
_LONGEST = 1000


class LongstrideError(Exception):
    """Base of every error raised on purpose; the command line prints its message and exits with 2."""


class InputError(LongstrideError, ValueError):
    """An argument cannot be used: wrong name, number, shape or combination."""


class CardError(LongstrideError, ValueError):
    """A coefficient card cannot be read, was edited, is too new, or belongs to another model.

    Its message may quote the file. So it is one line of bounded length, and what no terminal should print is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class NonFiniteError(LongstrideError, ArithmeticError):
    """Samples hold NaN or infinity; the message names the first network call that returned such an output, if any."""


class MonitorError(LongstrideError, RuntimeError):
    """A monitor with the policy ``"raise"`` found runs that are not like clean runs; the message says which and how."""


class StoreError(LongstrideError, OSError):
    """The store of a roll-out or adaptation cannot be used: missing, damaged, locked, on a full or read-only disk."""


def one_line(text: str) -> str:
    """A text of a file as one line that any terminal may print; of a long text, both ends."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Error for a name that is not in a registry, with the closest known names first.

    Args:
        kind: What the name stands for, such as ``"solver"``.
        name: The name that was given.
        known: All valid names.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return InputError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")


def not_taken(what: str, error: TypeError) -> InputError:
    """Error for a keyword argument that is not taken, in the words of Python's own error without the function's name.

    Args:
        what: Name of the callee, such as ``"solver 'ddim'"``.
        error: Python's own error.
    """
    return InputError(f"{what}: {str(error).split('() ')[-1]}")
