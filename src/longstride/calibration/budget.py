"""Calibrations that fit a budget: samples, steps and the reference solution, chosen for a number of network calls.

The ladder of plans was measured by ``python -m training.universal budgets``; ``docs/universal.md`` shows what each plan
reached. All plans but the largest, the default calibration, start from universal tables, or from the given
table if it is better on a few samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longstride.calibration.acceptance.clean_runs import CLEAN_RUNS
from longstride.calibration.acceptance.gate import FEWEST, gain_samples
from longstride.calibration.converged import checked_samples
from longstride.calibration.endpoint.cost import jacobian_calls, last_steps, most_calls, whole_fit_samples
from longstride.calibration.endpoint.settings import HELD_OUT, GaussNewtonSettings, fitted_samples
from longstride.calibration.endpoint.short_fits import most_compared
from longstride.calibration.starts.universal import most_universal_starts
from longstride.errors import InputError

__all__ = ["LADDER", "Plan", "plan_for"]

#: A reference solution has at least so many steps per network call of the table: a table is fitted to its errors, too.
_FINER = 4
#: Trials of a step, and fitted samples that rank the universal tables: so many in place of the default's.
_TRIALS, _RANKED = 2, 4
#: Directions per level in which the network is differentiated, on few samples and on more: the calls that exact
#: derivatives would cost are worth more samples.
_ROUGH, _FINE = 5, 8
#: Few samples decide. Most fits that know of other networks are better than universal tables, so that the gate asks for
#: less.
_GATE = {"margin": 0.1, "confidence": 0.6}
#: The ridge of fits that know nothing of other networks, such as from a classical table that is better than universal
#: ones: up to so many fitted samples, and above.
_FEW, _RIDGE, _WEAKER = 24, 0.01, 0.001
#: Plans from the cheapest: fitted samples, held-out samples, steps, and steps of the reference solution.
LADDER: tuple[tuple[int, int, int, int], ...] = (
    (4, FEWEST, 1, 20),
    (6, FEWEST, 1, 20),
    (8, FEWEST, 1, 20),
    (10, FEWEST, 1, 20),
    (8, FEWEST, 2, 20),
    (12, FEWEST, 2, 20),
    (12, FEWEST, 3, 24),
    (16, FEWEST, 3, 24),
    (20, FEWEST, 3, 24),
    (24, FEWEST, 3, 24),
    (28, 12, 4, 24),
    (34, 12, 4, 24),
    (40, 12, 4, 24),
    (48, 12, 4, 28),
    (56, 16, 4, 32),
    (72, 16, 4, 32),
    (96, 24, 4, 40),
    (96, 32, 4, 64),
)


@dataclass(frozen=True)
class Plan:
    """What a budget buys.

    Attributes:
        nfe: Network calls K of the table.
        fitted: Samples that are fitted.
        held_out: Samples that decide.
        reference_steps: Steps of the reference solution.
        calls: Network calls at most, in samples.
        settings: Settings of the method.
        monitor: Clean runs for the card's monitor: none within a budget, which has better uses for calls.
    """

    nfe: int
    fitted: int
    held_out: int
    reference_steps: int
    calls: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    monitor: int = 0

    @property
    def samples(self) -> int:
        """Samples in all."""
        return self.fitted + self.held_out

    def __str__(self) -> str:
        steps = self.settings.get("iterations", GaussNewtonSettings().iterations)
        return (
            f"{self.fitted} samples to fit in {steps} step{'s' * (steps > 1)}, {self.held_out} that decide, a "
            f"reference of {self.reference_steps} steps: at most {self.calls:,} network calls"
        )


def plan_for(budget: float, nfe: int, per_call: int = 1) -> Plan:
    """The largest plan within a budget.

    Args:
        budget: Network calls, in samples, references included.
        nfe: Network calls K of the table.
        per_call: Network calls of one sample and step: 2 for a guided pair.

    Raises:
        InputError: the budget is below the cheapest plan.
    """
    plans = [_plan(nfe, per_call, *rung) for rung in LADDER]
    fitted, settings = fitted_samples(nfe), GaussNewtonSettings()
    default = most_calls(nfe, fitted, HELD_OUT, settings) * per_call
    plans.append(Plan(nfe, fitted, HELD_OUT, 64, default, monitor=CLEAN_RUNS))
    affordable = [plan for plan in plans if plan.calls <= budget]
    if not affordable:
        raise InputError(
            f"a budget of {budget:,.0f} network calls is below one step of a calibration for {nfe} calls, "
            f"{plans[0].calls:,}: give more, or use the universal table as it is (solver 'longstride', "
            "longstride.universal), which costs nothing"
        )
    return affordable[-1]


def _plan(nfe: int, per_call: int, fitted: int, held_out: int, steps: int, reference: int) -> Plan:
    settings: dict[str, Any] = {
        "iterations": steps,
        "scouts": 0,
        "universal": True,
        "scout_samples": _RANKED,
        "final_samples": fitted,
        "trials": _TRIALS,
        "rank": _ROUGH if fitted < _FEW else _FINE,
        **_GATE,
        "ridge": _RIDGE if fitted <= _FEW else _WEAKER,
    }
    reference = max(reference, _FINER * nfe)
    asked = GaussNewtonSettings(**settings)
    sizes, last = whole_fit_samples(fitted, asked), last_steps(fitted, asked)
    unit = -(-_RANKED // 2)
    solved = (fitted + held_out) * reference + checked_samples(held_out) * (reference // 2)
    starts = most_universal_starts(guided=per_call > 1)
    tried = ((starts + 1) * _RANKED + most_compared(1, starts) * held_out) * nfe
    fit = (sizes[-1] + last * fitted) * jacobian_calls(nfe, asked)
    fit += (_TRIALS * (sum(sizes) + last * fitted) + (len(sizes) + last) * held_out + fitted) * nfe
    gain = min(held_out, -(-gain_samples(held_out) // unit) * unit)
    gate = (2 * held_out + 4 * gain) * nfe
    return Plan(nfe, fitted, held_out, reference, (solved + tried + fit + gate) * per_call, settings)
