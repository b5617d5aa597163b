"""A calibration from the page: settings, cost, and the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from longstride.calibration import Calibration, calibrate
from longstride.calibration.method import configured
from longstride.calibration.methods import DEFAULT, METHODS, method_of
from longstride.errors import InputError
from longstride.evaluation.contestants import base_table, card_label
from longstride.evaluation.seeds import seed_range
from longstride.zoo import Model

__all__ = ["Effort", "Stopped", "calibrate_card", "cost_of", "method_labels", "summary_of", "usual_effort"]

#: Most samples per network call.
_BATCH = 64


class Stopped(Exception):
    """The user stopped a calibration."""


@dataclass(frozen=True)
class Effort:
    """How to calibrate.

    Attributes:
        calls: Network calls per sample; a guided pair counts as one.
        fitted: Samples that are fitted.
        held_out: Samples that the gate looks at.
        method: Name of the method.
        iterations: Most steps of a Gauss–Newton fit.
        scouts: Starts of a Gauss–Newton fit that are tried.
        seed: Seed of the noise.

    Raises:
        InputError: no such method, or too few samples.
    """

    calls: int
    fitted: int
    held_out: int
    method: str = DEFAULT
    iterations: int = 4
    scouts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        method_of(self.method)
        if min(self.calls, self.fitted, self.held_out, self.iterations) < 1 or self.scouts < 0 or self.seed < 0:
            raise InputError(
                "expected at least one network call, fitted sample, held-out sample and step, and no negative number"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the method; a method that fits row by row has none of these."""
        known = {one.name for one in fields(method_of(self.method).settings)}
        return {name: getattr(self, name) for name in ("iterations", "scouts") if name in known}


def method_labels() -> dict[str, str]:
    """Every method with its name for people."""
    return {name: one.label for name, one in METHODS.items()}


def usual_effort(calls: int, method: str = DEFAULT) -> Effort:
    """A method's usual numbers of samples for so many calls."""
    return Effort(calls, *method_of(method).counts(calls), method)


def _base(effort: Effort) -> str:
    return next(iter(method_of(effort.method).solvers), "ddim")


def cost_of(effort: Effort, guidance: float | None) -> str:
    """Network calls in samples at most, in words; empty if the method has no bound."""
    way = method_of(effort.method)
    settings = configured(way, _base(effort), effort.settings)
    return way.cost(effort.calls, effort.fitted, effort.held_out, settings, 1 if guidance is None else 2)


def calibrate_card(
    model: Model,
    guidance: float | None,
    effort: Effort,
    progress: Callable[[int, int, str], None] | None = None,
) -> Calibration:
    """Calibrate on noise that no scene shows.

    Args:
        model: The model.
        guidance: Guidance scale, or None.
        effort: How.
        progress: Called with (steps done, steps in all, what is being done). What it raises ends the calibration.

    Raises:
        InputError: the model cannot be guided, or its base cannot spend so many calls.
        NonFiniteError: the network returned NaN or infinity.
    """
    seeds = seed_range("calibration", effort.seed, effort.fitted + effort.held_out)
    table = base_table(model.schedule, _base(effort), effort.calls)
    return calibrate(
        model.denoiser(seeds, guidance),
        model.noise(seeds, table.levels[0]),
        table,
        method=effort.method,
        held_out=effort.held_out,
        batch_size=_BATCH,
        model=model.info(guidance),
        seed=effort.seed,
        progress=progress,
        **effort.settings,
    )


def summary_of(found: Calibration) -> str:
    """What came of a calibration, in a sentence."""
    end, search = found.end, found.search
    base = card_label(search.base if search is not None else found.card.base.name)
    errors = f"RMSE {end.calibrated.rmse:.4f} against {end.base.rmse:.4f} of {base}"
    where = f"on {end.samples} held-out samples; {found.calls:,} network calls"
    if end.accepted:
        return f"Accepted: {errors} {where}."
    return f"The base is kept ({end.reason or 'the calibrated rows were worse'}): {errors} {where}."
