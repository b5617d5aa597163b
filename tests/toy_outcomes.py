"""Made-up outcomes of a proof of concept: one for every way in which it can end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from longstride.evaluation.bootstrap import Interval
from longstride.report.outcome import (
    Calibrated,
    Cost,
    Counts,
    Figures,
    Machine,
    Outcome,
    Pair,
    Pictures,
    Sampler,
    Subject,
    Worst,
)
from longstride.report.pictures import encoded

__all__ = ["OUTCOMES", "made"]

CALLS = (4, 5, 6, 8)
SAMPLES = 512


def pictures(calls: int = 6, width: int = 28) -> Pictures:
    """Random pictures, the same in every call."""
    drawn = 2 * torch.rand(64, 1, width, width, generator=torch.Generator().manual_seed(0)) - 1
    shown = iter(encoded(drawn) * 3)
    flips = tuple(Pair(20 + n, next(shown), next(shown), next(shown), next(shown)) for n in range(8))
    blind = tuple(Pair(n, next(shown), next(shown)) for n in range(20))
    worst = tuple(Worst(n, Pair(n, next(shown), next(shown), None, next(shown))) for n in range(6))
    return Pictures(calls, flips, blind, worst, width)


def _errors(size: float, seed: int, common: np.ndarray, spread: float) -> tuple[float, ...]:
    own = np.exp(spread * np.random.default_rng(seed).standard_normal(len(common)))
    return tuple(float(f"{one:.6g}") for one in size * common * own)


def _distance(size: float) -> Interval:
    return Interval(100 * size, 95 * size, 105 * size)


def made(
    *,
    ours: float = 1.0,
    classical: float = 2.5,
    today: float = 0.04,
    samples: int = SAMPLES,
    spread: float = 0.2,
    kept: bool = False,
    tail: int = 0,
    slope: float = 1.3,
    seconds: float = 0.05,
) -> Outcome:
    """An outcome.

    Args:
        ours: Error of the calibrated sampler with 8 calls, in units of today's with 20.
        classical: The same of the best classical one.
        today: Error of today's sampler.
        samples: Number of evaluated samples.
        spread: How much errors of a sample scatter between samplers.
        kept: Whether the gate kept the base.
        tail: Number of samples that are five times as far off as today.
        slope: How fast errors fall with calls.
        seconds: Seconds per network call and picture.
    """
    common = np.exp(0.5 * np.random.default_rng(0).standard_normal(samples))
    reference = _errors(today, 1, common, spread)
    clock = np.random.default_rng(9)

    def timed(calls: int) -> tuple[float, ...]:
        return tuple(float(f"{calls * seconds * one:.6g}") for one in 1 + 0.02 * clock.random(10))

    def one(name: str, label: str, kind: str, size: float, calls: int) -> Sampler:
        errors = list(
            _errors(
                today * size * (8 / calls) ** slope,
                10 + calls + len(name) + 1000 * (name == "unipc3_log_snr"),
                common,
                spread,
            )
        )
        if kind == "calibrated":
            for n in range(tail):
                errors[n] = round(5 * reference[n], 6)
        value = today * size * (8 / calls) ** slope
        change = Interval(100 * (value - today), 100 * (value - today) - 1, 100 * (value - today) + 1)
        clocked = timed(calls) if kind == "calibrated" else ()
        return Sampler(name, label, kind, calls, tuple(errors), _distance(value), change, clocked)  # type: ignore[arg-type]

    samplers = [Sampler("dpmpp_2m", "DPM-Solver++ 2M", "today", 20, reference, _distance(today), None, timed(20))]
    for calls in CALLS:
        samplers.append(one("calibrated", "calibrated", "calibrated", classical if kept else ours, calls))
        samplers.append(one("best_classical", "best classical", "classical", classical, calls))
        samplers.append(one("dpmpp_2m", "DPM-Solver++ 2M", "today", 1.5 * classical, calls))
    samplers += [
        one("unipc3_log_snr", "UniPC-3 on log_snr", "classical", classical, calls) for calls in (*CALLS, 11, 15)
    ]
    said = [
        Calibrated(
            calls=calls,
            how="base" if kept else "filled and refined" if calls == 5 else "calibrated",
            base="UniPC-3 on log_snr",
            reason="it is not surely better than its base" if kept else "",
            held_out=(today * classical * 8 / calls, today * ours * 8 / calls),
            gain=(1.1, 1.2),
        )
        for calls in CALLS
    ]
    return Outcome(
        subject=Subject("toy", "0123456789abcdef", (1, 28, 28)),
        machine=Machine("cpu", "a processor, 2 cores", 2, "3.11.0", "2.13.0", "0.1.0"),
        date="2026-11-29",
        command="longstride poc toy --nfe 4,5,6,8 --today-sampler dpmpp_2m --today-nfe 20",
        quick=False,
        seed=0,
        today=("dpmpp_2m", 20),
        asked=CALLS,
        counts=Counts(96, 48, samples, 32, 64, 0.001, 64, "efficientnet-lite0", 10),
        samplers=tuple(samplers),
        calibrated=tuple(said),
        cost=Cost(160_000, 420.0),
        figures=Figures(2.5, 1_000_000, "EUR"),
        pictures=pictures(),
    )


def _guided(one: Outcome) -> Outcome:
    return replace(one, subject=replace(one.subject, guidance=7.5))


def _alone(one: Outcome) -> Outcome:
    """Today's sampler with 20 calls, and one calibrated number of calls."""
    kept = [s for s in one.samplers if (s.name, s.calls) in (("dpmpp_2m", 20), ("calibrated", 8))]
    return replace(one, samplers=tuple(kept), asked=(8,), calibrated=one.calibrated[-1:], pictures=pictures(8))


def _failed(one: Outcome, failed: str, detail: str) -> Outcome:
    return replace(one, samplers=(), calibrated=(), pictures=None, failed=failed, detail=detail)  # type: ignore[arg-type]


def _as_slow(one: Outcome) -> Outcome:
    """Every number of calls takes as long."""
    today = one.samplers[0].seconds
    timed = [replace(s, seconds=today[::-1]) if s.kind == "calibrated" else s for s in one.samplers]
    return replace(one, samplers=tuple(timed))


_GREAT = made(ours=0.5)
#: By name; each with what must be recommended and the sentence that must be said (see the tests).
OUTCOMES: dict[str, Outcome] = {
    "great": _GREAT,
    "none": made(ours=2.5, classical=2.5),
    "worse": made(ours=3.0, classical=4.0),
    "uncertain": made(ours=0.98, spread=1.0, samples=100, slope=0.5),
    "guided": _guided(_GREAT),
    "no price": replace(_GREAT, figures=Figures()),
    "one solver only": _alone(_GREAT),
    "base refused": made(kept=True),
    "non-finite": _failed(_GREAT, "non-finite", "network call 3 at sigma 1.5 returned NaN"),
    "interrupted": _failed(_GREAT, "unfinished", "evaluation"),
    "quick": replace(made(ours=0.5, samples=160), quick=True),
    "tail": made(ours=0.3, tail=6, slope=1.0),
    "classical is enough": made(ours=0.65, classical=0.6),
    "never pays": replace(_GREAT, figures=Figures(2.5, 20, "EUR")),
    "no faster": _as_slow(_GREAT),
}
