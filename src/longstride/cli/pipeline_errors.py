"""A pipeline's own errors in its call, told in one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from longstride.cli.call_options import SET_OTHERWISE, WRITTEN
from longstride.errors import InputError, LongstrideError

__all__ = ["refusals"]

#: Arguments that the user did not give with ``--option``.
_OURS = (*SET_OTHERWISE, "height", "width", "class_labels")


@contextmanager
def refusals(pipeline: Any, given: Mapping[str, Any]) -> Iterator[None]:
    """Tell an error that a pipeline raises in its call in one line, with its own words.

    Errors of longstride keep their words, or their traceback if they are bugs.

    Args:
        pipeline: The pipeline.
        given: Arguments of the call that the user gave.

    Raises:
        InputError: the pipeline raised an error in its call.
    """
    try:
        yield
    except LongstrideError:
        raise
    except Exception as error:
        if not _raised_in_call(pipeline, error.__traceback__):
            raise
        words = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "no message")
        raise InputError(
            f"{type(pipeline).__name__} refuses the call ({type(error).__name__}: {words}){_hint(words, given)}"
        ) from error


def _raised_in_call(pipeline: Any, trace: TracebackType | None) -> bool:
    """Whether an error comes from below a pipeline's call, and not from longstride below the call."""
    own = [kind.__dict__["__call__"] for kind in type(pipeline).__mro__ if "__call__" in kind.__dict__]
    # Behind torch.no_grad() is the call itself; an argument that is missing is told by the decorator.
    calls = {one.__code__ for call in own for one in (call, inspect.unwrap(call)) if hasattr(one, "__code__")}
    inside = False
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_globals.get("__name__", "").partition(".")[0] == "longstride":
            inside = False
        elif frame.f_code in calls:
            inside = True
        trace = trace.tb_next
    return inside


def _hint(words: str, given: Mapping[str, Any]) -> str:
    """The options of the command that an error speaks of, or else every ``--option`` that was given."""
    named = [name for name in {**WRITTEN, **given} if re.search(rf"\b{re.escape(name)}\b", words)]
    suspects = named or [name for name in given if name not in _OURS]
    options = dict.fromkeys(WRITTEN.get(name, f"--option {name}") for name in suspects)
    return f": see {' and '.join(options)}" if options else ""
