"""What all parts of the page use: pictures, errors in words, work beside the page, and one style."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nicegui import html, run, ui

from longstride.errors import LongstrideError
from longstride.explorer.calibrating import Stopped

__all__ = ["STYLE", "Failed", "number", "picture", "tell", "work"]

#: Sharp pixels, quiet lines, numbers in columns.
STYLE = Path(__file__).parent / "style.css"

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Failed(Exception):
    """Work that failed, in words for the page."""


async def work(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function in a thread, so that the page stays alive.

    Raises:
        Failed: it raised an error of longstride, or any other one, which goes to the log, too.
    """
    try:
        found: T | None = await run.io_bound(function, *args, **options)
    except (LongstrideError, Stopped) as error:
        raise Failed(str(error)) from None
    except Exception as error:
        _log.exception("the explorer met an error that it does not know")
        raise Failed(f"unexpected {type(error).__name__}: {error}; see the terminal") from None
    if found is None:  # the server stops
        raise Failed("the explorer is being stopped")
    return found


def tell(error: Exception) -> None:
    """Show an error until it is taken away."""
    ui.notify(str(error), type="negative", position="bottom", timeout=0, close_button="Close", multi_line=True)


def picture(source: str, text: str, kind: str = "") -> Any:
    """A picture with its words for those who do not see it."""
    return html.img(src=source, alt=text).classes(f"ls-picture {kind}")


def number(label: str, value: float | None, low: float, high: float, **options: Any) -> Any:
    """A field for a number."""
    return ui.number(label, value=value, min=low, max=high, **options).props("dense outlined").classes("ls-number")
