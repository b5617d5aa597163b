"""What ``--budget`` buys: network calls as they are written, or time at the measured speed of the network."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from longstride.calibration.budget import Plan, plan_for
from longstride.errors import InputError
from longstride.sampler import DenoiserLike

__all__ = ["Budget", "budget_of", "planned", "seconds_per_call"]

#: Seconds of a unit of time.
_TIMES = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """A bound on a calibration.

    Attributes:
        calls: Network calls, in samples; infinite if time is the bound.
        seconds: Seconds; infinite if network calls are the bound.
    """

    calls: float = math.inf
    seconds: float = math.inf


def budget_of(text: str) -> Budget:
    """A budget as it is written: ``2000`` or ``2,000`` network calls; ``90s``, ``20min`` or ``1.5h``.

    Raises:
        InputError: not written like that, or not above 0.
    """
    found = re.fullmatch(r"([0-9][0-9,_]*(?:\.[0-9]+)?)\s*(s|min|h)?", text.strip())
    number = float(re.sub("[,_]", "", found[1])) if found else 0.0
    if found is None or number <= 0:
        raise InputError(f"expected a budget such as 2000 network calls, 90s, 20min or 1.5h, got {text!r}")
    return Budget(seconds=number * _TIMES[found[2]]) if found[2] else Budget(calls=number)


def planned(budget: Budget, nfe: int, per_call: int, speed: Callable[[], float]) -> Plan:
    """The plan within a budget.

    Args:
        budget: The budget.
        nfe: Network calls of the table.
        per_call: Network calls of one sample and step: 2 for a guided pair.
        speed: Measures the seconds of a network call of one sample; called if time is the bound.

    Raises:
        InputError: the budget is below the cheapest plan.
    """
    if math.isinf(budget.seconds):
        return plan_for(budget.calls, nfe, per_call)
    each = speed()
    try:
        return plan_for(budget.seconds / each, nfe, per_call)
    except InputError as error:
        raise InputError(f"{budget.seconds:g} s at {each:.3g} s per network call: {error}") from None


def seconds_per_call(denoiser: DenoiserLike, noise: torch.Tensor, sigma: float) -> float:
    """Seconds of a network call, per sample: the second of two calls of a batch.

    Args:
        denoiser: The network, bound to the samples of ``noise``.
        noise: A few states at level ``sigma``.
        sigma: The level.
    """
    took = 0.0
    with torch.inference_mode():
        for _ in range(2):
            begin = time.perf_counter()
            float(denoiser(noise, sigma).sum())  # waits for the device
            took = time.perf_counter() - begin
    return max(took, 1e-9) / len(noise)
