r"""Which core serves a run: of the number of calls, and between cores in the start and the guidance scale.

Cores are fitted for two starts, at :math:`\sigma / \alpha` of 160 and of 14.6 times the standard deviation of the data
(EDM and flows; Stable Diffusion), and at some guidance scales w. Between them the free numbers, weights and logarithms
of levels, are linear in the logarithm of the start and in :math:`\log w`. Beyond the ends the nearest core serves: a
start above the larger is as good as infinite.

Samples that are a few bright objects on a dark ground have cores of their own, of one start and without guidance.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from longstride.arrays import Array
from longstride.cores.core import UNIT, Core
from longstride.errors import InputError

__all__ = ["calls", "chosen_core", "closest_start", "networks", "objection", "spread"]

#: A start below this part of the lowest start of a core is refused; for dark samples their first levels decide.
_LEAST_PART, _LEAST_DARK = 0.75, 0.1
#: Variance that is added to that of a few networks, as a part of it.
_FEW = 0.1


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files(__package__) / "cores.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=2)
def _cores(dark: bool = False) -> dict[tuple[int, float, float], Core]:
    """All cores by calls, start and guidance scale; those of dark samples, or the others."""
    made = {}
    for one in _document()["cores"]:
        if one.get("dark", False) == dark:
            numbers = np.concatenate([one["weights"], np.log(one["levels"])])
            made[one["nfe"], one["start"], one["guidance"]] = Core.of(numbers, one["nfe"], one["start"])
    return made


@lru_cache(maxsize=1)
def _moves() -> dict[int, dict[str, list[float]]]:
    """Differences of networks' own free numbers from those of a core, by calls and network."""
    return {int(nfe): moves for nfe, moves in _document().get("moves", {}).items()}


def spread(nfe: int) -> Array:
    """Directions in which networks' own free numbers differ from those of a core, one a row; none if unknown.

    With rows F, the covariance of networks is ``F^T F``. As the networks are few, a tenth of each variance is added.
    """
    moves = np.array(list(_moves().get(nfe, {}).values()))
    if not len(moves):
        return np.zeros((0, nfe * (nfe - 1) // 2 + nfe - 1))
    variances = np.mean(moves**2, 0)
    return np.concatenate([moves / math.sqrt(len(moves)), np.diag(np.sqrt(_FEW * variances))])


def networks() -> dict[str, list[str]]:
    """Names of the networks that the cores were fitted on, by guidance scale as text."""
    found: dict[str, list[str]] = _document()["networks"]
    return found


def calls(dark: bool = False) -> list[int]:
    """Numbers of network calls that there are cores for."""
    return sorted({nfe for nfe, _, _ in _cores(dark)})


def closest_start(dark: bool = False) -> float:
    """Least ``sigma / alpha`` of a start, in units of the standard deviation of the data."""
    return (_LEAST_DARK if dark else _LEAST_PART) * min(start for _, start, _ in _cores(dark)) / UNIT


def objection(nfe: int, start: float, dark: bool = False) -> str:
    """Why no core serves a run, or empty.

    Args:
        nfe: Network calls.
        start: ``sigma / alpha`` of the first state over the standard deviation of the data.
        dark: Whether samples are dark.
    """
    known, kind = calls(dark), "universal tables of dark samples" if dark else "universal tables"
    if nfe not in known:
        return f"{kind} make {known[0]} to {known[-1]} network calls, got {nfe}"
    if not start >= (least := closest_start(dark)):
        return (
            f"{kind} start at sigma / alpha of at least {least:.3g} times the standard deviation "
            f"of the data, got {start:.3g} times, which is too near for a universal table"
        )
    return ""


def chosen_core(nfe: int, start: float, guidance: float, dark: bool = False) -> Core:
    """The core of a run.

    Args:
        nfe: Network calls.
        start: ``sigma / alpha`` of the first state over the standard deviation of the data; may be infinite.
        guidance: Guidance scale; 1 without guidance.
        dark: Whether samples are a few bright objects on a dark ground.

    Raises:
        InputError: no core has so many calls, the start is too near, or the guidance scale is not finite.
    """
    if why := objection(nfe, start, dark):
        raise InputError(f"{why}: build 'unipc' with order=3 instead")
    if not math.isfinite(guidance):
        raise InputError(f"guidance must be a finite number, got {guidance}")
    known = {(s, w): one for (k, s, w), one in _cores(dark).items() if k == nfe}
    starts, scales = sorted({s for s, _ in known}), sorted({w for _, w in known})
    part = _place(starts, min(start * UNIT, starts[-1]))
    share = _place(scales, max(guidance, 1.0))
    numbers = sum(
        (
            p * q * known[s, w].numbers
            for p, s in zip(part, starts, strict=True)
            for q, w in zip(share, scales, strict=True)
            if p * q
        ),
        start=np.zeros(nfe * (nfe - 1) // 2 + nfe - 1),
    )
    first = math.exp(sum(p * math.log(s) for p, s in zip(part, starts, strict=True)))
    return Core.of(numbers, nfe, first)


def _place(known: list[float], at: float) -> list[float]:
    """Weights of known points for linear interpolation in the logarithm, constant beyond the ends."""
    x, place = np.log(known), math.log(at)
    return [float(np.interp(place, x, row)) for row in np.eye(len(known))]
