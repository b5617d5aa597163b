r"""Which core serves a run: of the number of calls, and between cores in the start and the guidance scale.

Cores are fitted for two starts, at :math:`\sigma / \alpha` of 160 and of 14.6 times the standard deviation of the data
(EDM and flows; Stable Diffusion), and at some guidance scales w. Between them the free numbers, weights and logarithms
of levels, are linear in the logarithm of the start and in :math:`\log w`. Beyond the ends the nearest core serves: a
start above the larger is as good as infinite.
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

__all__ = ["calls", "chosen_core", "closest_start", "networks"]

#: A start below this part of the lowest start of a core is refused.
_LEAST_PART = 0.75


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files(__package__) / "cores.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=1)
def _cores() -> dict[tuple[int, float, float], Core]:
    """All cores by calls, start and guidance scale."""
    made = {}
    for one in _document()["cores"]:
        weights = np.zeros((one["nfe"], one["nfe"]))
        weights[np.tril_indices(one["nfe"], -1)] = one["weights"]
        made[one["nfe"], one["start"], one["guidance"]] = Core(one["start"], np.array(one["levels"]), weights)
    return made


def networks() -> dict[str, list[str]]:
    """Names of the networks that the cores were fitted on, by guidance scale as text."""
    found: dict[str, list[str]] = _document()["networks"]
    return found


def calls() -> list[int]:
    """Numbers of network calls that there are cores for."""
    return sorted({nfe for nfe, _, _ in _cores()})


def closest_start() -> float:
    """Least ``sigma / alpha`` of a start, in units of the standard deviation of the data."""
    return _LEAST_PART * min(start for _, start, _ in _cores()) / UNIT


def chosen_core(nfe: int, start: float, guidance: float) -> Core:
    """The core of a run.

    Args:
        nfe: Network calls.
        start: ``sigma / alpha`` of the first state over the standard deviation of the data; may be infinite.
        guidance: Guidance scale; 1 without guidance.

    Raises:
        InputError: no core has so many calls, the start is too near, or the guidance scale is not finite.
    """
    if nfe not in calls():
        raise InputError(
            f"universal tables make {calls()[0]} to {calls()[-1]} network calls, got {nfe}: build 'unipc' with order=3 "
            "instead"
        )
    if not start >= closest_start():
        raise InputError(
            f"universal tables start at sigma / alpha of at least {closest_start():.3g} times the standard deviation "
            f"of the data, got {start:.3g}: build 'unipc' for a run that starts in the middle"
        )
    if not math.isfinite(guidance):
        raise InputError(f"guidance must be a finite number, got {guidance}")
    known = {(s, w): one for (k, s, w), one in _cores().items() if k == nfe}
    starts, scales = sorted({s for s, _ in known}), sorted({w for _, w in known})
    part = _place(starts, min(start * UNIT, starts[-1]))
    share = _place(scales, max(guidance, 1.0))
    numbers = sum(
        (
            p * q * _numbers(known[s, w])
            for p, s in zip(part, starts, strict=True)
            for q, w in zip(share, scales, strict=True)
            if p * q
        ),
        start=np.zeros(nfe * (nfe - 1) // 2 + nfe - 1),
    )
    first = math.exp(sum(p * math.log(s) for p, s in zip(part, starts, strict=True)))
    return _from_numbers(numbers, nfe, first)


def _place(known: list[float], at: float) -> list[float]:
    """Weights of known points for linear interpolation in the logarithm, constant beyond the ends."""
    x, place = np.log(known), math.log(at)
    return [float(np.interp(place, x, row)) for row in np.eye(len(known))]


def _numbers(core: Core) -> Array:
    return np.concatenate([core.weights[np.tril_indices(core.nfe, -1)], np.log(core.levels)])


def _from_numbers(numbers: Array, nfe: int, start: float) -> Core:
    weights, count = np.zeros((nfe, nfe)), nfe * (nfe - 1) // 2
    weights[np.tril_indices(nfe, -1)] = numbers[:count]
    return Core(start, np.exp(numbers[count:]), weights)
