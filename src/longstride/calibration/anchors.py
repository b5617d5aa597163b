"""Anchors of a book: the settings that are calibrated. The other settings are filled between the anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["anchors_of", "scales_between"]

#: Numbers of calls of neighbouring anchors differ by about this factor at most.
_RATIO = 1.5


def anchors_of(nfes: Sequence[int]) -> list[int]:
    """Numbers of calls to calibrate: both ends, and as few between that neighbours differ by a factor of about 1.5.

    Args:
        nfes: All numbers of calls.

    Examples:
        >>> anchors_of(range(4, 21))
        [4, 6, 9, 13, 20]
    """
    low, high = min(nfes), max(nfes)
    parts = max(1, math.ceil(math.log(high / low) / math.log(_RATIO) - 1e-9))
    wanted = [low * (high / low) ** (n / parts) for n in range(parts + 1)]
    return sorted({min(nfes, key=lambda nfe: abs(math.log(nfe / one))) for one in wanted})


def scales_between(low: float, high: float) -> list[float]:
    """Guidance scales to calibrate in a range: both ends and their geometric mean, to three digits.

    Examples:
        >>> scales_between(1, 8)
        [1, 2.83, 8]
    """
    middle = float(f"{math.sqrt(low * high):.3g}") if low > 0 else float(f"{math.expm1(math.log1p(high) / 2):.3g}")
    return [low, middle, high] if low < middle < high else [low, high]
