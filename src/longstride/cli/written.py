"""How numbers are written on the command line.

Network calls: ``8``, ``4-20`` or ``4,6,8``. Guidance scales: ``7.5``, ``1-8`` or ``1,3,7.5``. Sizes: ``512x512``.
"""

from __future__ import annotations

import math
import re

import typer

from longstride.calibration.anchors import scales_between
from longstride.errors import InputError

__all__ = ["check_nfes", "guidances_of", "nfes_of", "numbers_of", "size_of"]

_RANGE = re.compile(r"([0-9.]+)\s*-\s*([0-9.]+)")


def nfes_of(text: str) -> list[int]:
    """Numbers of network calls: one, a range with both ends, or a list with commas.

    Raises:
        InputError: not written like that, below 1, or a range that does not rise.
    """
    wrong = InputError(f"expected network calls such as 8, 4-20 or 4,6,8, got {text!r}")
    try:
        if found := _RANGE.fullmatch(text.strip()):
            numbers = list(range(int(found[1]), int(found[2]) + 1))
        else:
            numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise wrong from None
    if not numbers or min(numbers) < 1 or len(numbers) > 1000:
        raise wrong
    return sorted(set(numbers))


def check_nfes(text: str | None) -> str | None:
    """``text`` itself, if :func:`nfes_of` can read it; what is wrong is told as of an option."""
    if text is not None:
        try:
            nfes_of(text)
        except InputError as error:
            raise typer.BadParameter(str(error)) from None
    return text


def guidances_of(text: str | None) -> list[float | None]:
    """Guidance scales: none, one, both ends of a range and their middle, or a list with commas.

    Raises:
        InputError: not written like that, not finite, several that are not positive, or a range that does not rise.
    """
    if text is None:
        return [None]
    wrong = InputError(f"expected guidance scales such as 7.5, 1-8 or 1,3,7.5, got {text!r}")
    try:
        if found := _RANGE.fullmatch(text.strip()):
            low, high = float(found[1]), float(found[2])
            if not low < high:
                raise wrong
            scales = scales_between(low, high)
        else:
            scales = [float(part) for part in text.split(",")]
    except ValueError:
        raise wrong from None
    if not all(map(math.isfinite, scales)):
        raise InputError(f"guidance must be a finite number, got {text}")
    if len(scales) > 1 and min(scales) < 0:
        raise InputError(f"several guidance scales must be 0 or more, got {text}")
    rising: list[float | None] = [*sorted(set(scales))]
    return rising


def numbers_of(text: str) -> tuple[int, ...]:
    """Numbers of network calls with commas, rising.

    Raises:
        InputError: not written like that.
    """
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"expected numbers of network calls with commas, such as 5,6,8,10, got {text!r}") from None
    return tuple(sorted(found))


def size_of(text: str | None) -> dict[str, int]:
    """``768x512`` as the width and height of a call.

    Raises:
        InputError: not written like that.
    """
    if text is None:
        return {}
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InputError(f"expected a size such as 512x512, got {text!r}")
    return {"width": int(width), "height": int(height)}
