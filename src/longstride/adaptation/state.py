"""The state of an adaptation, and the same as text that a file keeps."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field, ValidationError

from longstride.adaptation.intake import REASONS
from longstride.adaptation.settings import AdaptationSettings
from longstride.adaptation.sums import Sums
from longstride.adaptation.trial import Trial
from longstride.arrays import Array
from longstride.calibration.normal_equations import NormalEquations
from longstride.card_parts import Part
from longstride.errors import InputError
from longstride.guard.statistics import names

__all__ = ["Counters", "State"]


def _none_refused() -> dict[str, int]:
    return {str(reason): 0 for reason in REASONS}


class Counters(Part):
    """What became of everything so far.

    Attributes:
        samples: Samples that were offered.
        used: Samples that counted.
        over: Samples that were left out because their request had more than are used of one.
        refused: Samples that were refused, by their reason (:data:`longstride.adaptation.intake.Reason`).
        calls: Network calls beside those of converged solutions that were given.
        candidates: Candidates that were tried.
        lost: Candidates that lost their trial.
        proposed: Candidates that won their trial.
        adopted: Proposals that became the card in use.
        rejected: Proposals that did not.
    """

    samples: int = Field(default=0, ge=0)
    used: int = Field(default=0, ge=0)
    over: int = Field(default=0, ge=0)
    refused: dict[str, int] = Field(default_factory=_none_refused)
    calls: int = Field(default=0, ge=0)
    candidates: int = Field(default=0, ge=0)
    lost: int = Field(default=0, ge=0)
    proposed: int = Field(default=0, ge=0)
    adopted: int = Field(default=0, ge=0)
    rejected: int = Field(default=0, ge=0)

    def plus(self, **more: int) -> Counters:
        """With so many more."""
        return self.model_copy(update={name: getattr(self, name) + count for name, count in more.items()})

    def refusing(self, reason: str) -> Counters:
        """With one more sample that was refused."""
        return self.model_copy(update={"refused": {**self.refused, reason: self.refused.get(reason, 0) + 1}})


class _KeptTrial(Part):
    number: int = Field(ge=1)
    values: str
    times: tuple[float, ...] | None
    fitted: float
    bounds: dict[str, str]
    squared: str
    gains: str
    statistics: str


class _Kept(Part):
    sums: str
    effective: float = Field(ge=0)
    seen: int = Field(ge=0)
    latest: str
    trial: _KeptTrial | None
    won: str
    tried_at: int
    tries: int = Field(ge=0)
    too_far: int = Field(ge=0)
    counters: Counters
    lineage: tuple[str, ...]


@dataclass
class State:
    """Everything that an adaptation knows beside its cards and the digests of noise.

    Attributes:
        sums: What all samples tell, at the card in use.
        trial: The candidate under trial, or the one that has won; None: there is none.
        won: Why it has won; empty: it has not.
        tried_at: Number of samples when the last candidate was fitted, or the card was changed.
        tries: Candidates that lost their trial, and proposals that were rejected, since the card was last changed.
        too_far: Those of them that were surely not better, or rejected.
        counters: What became of everything.
        lineage: Digests of the tables from the calibration's to that of the card in use.
    """

    sums: Sums
    trial: Trial | None = None
    won: str = ""
    tried_at: int = 0
    tries: int = 0
    too_far: int = 0
    counters: Counters = field(default_factory=lambda: Counters())
    lineage: tuple[str, ...] = ()

    def dumps(self) -> str:
        """As text; every number to the bit."""
        one = self.trial
        kept = None
        if one is not None:
            kept = _KeptTrial(
                number=one.number,
                values=_text(one.values),
                times=one.times,
                fitted=one.fitted,
                bounds={name: base64.b64encode(bounds.dumps()).decode() for name, bounds in one.bounds.items()},
                squared=_text(np.array(one.squared)),
                gains=_text(np.array(one.gains)),
                statistics=_text(np.array(one.statistics)),
            )
        sums = self.sums
        return _Kept(
            sums=_text(sums.equations.pack()),
            effective=sums.effective,
            seen=sums.seen,
            latest=_text(np.array(sums.latest)),
            trial=kept,
            won=self.won,
            tried_at=self.tried_at,
            tries=self.tries,
            too_far=self.too_far,
            counters=self.counters,
            lineage=self.lineage,
        ).model_dump_json()

    @staticmethod
    def loads(text: str, unknowns: int, nfe: int, settings: AdaptationSettings) -> State:
        """The inverse of :meth:`dumps`.

        Args:
            text: What it returned.
            unknowns: Number of free numbers.
            nfe: Network calls of the card.
            settings: Give the levels of the bounds.

        Raises:
            ValueError: it did not return this text for such a card.
        """
        try:
            kept = _Kept.model_validate(json.loads(text))
            packed = _numbers(kept.sums, unknowns * (unknowns + 1) + 2)
            equations = NormalEquations.unpack(packed.copy(), unknowns)
            sums = Sums(equations, kept.effective, kept.seen, tuple(_numbers(kept.latest).tolist()))
            trial = None if kept.trial is None else _trial(kept.trial, unknowns, nfe, settings)
        except (ValidationError, InputError) as error:
            raise ValueError(str(error).partition("\n")[0]) from None
        return State(sums, trial, kept.won, kept.tried_at, kept.tries, kept.too_far, kept.counters, kept.lineage)

    def drop_trial(self, *, too_far: bool) -> None:
        """Drop a candidate; ``too_far``: the next one is pulled more strongly towards the card."""
        self.trial, self.won, self.tried_at = None, "", self.sums.seen
        self.tries, self.too_far = self.tries + 1, self.too_far + too_far

    def changed_card(self) -> None:
        """Begin anew with the candidate as the card in use."""
        self.trial, self.won, self.tried_at, self.tries, self.too_far = None, "", self.sums.seen, 0, 0


def _trial(kept: _KeptTrial, unknowns: int, nfe: int, settings: AdaptationSettings) -> Trial:
    values = _numbers(kept.values, unknowns)
    one = Trial.begin(kept.number, values, kept.times, kept.fitted, settings)
    if set(one.bounds) != set(kept.bounds):
        raise ValueError(f"bounds of {sorted(kept.bounds)}")
    for name, bounds in one.bounds.items():
        bounds.loads(base64.b64decode(kept.bounds[name], validate=True))
    one.squared = [(a, b, c) for a, b, c in _numbers(kept.squared).reshape(-1, 3).tolist()]
    one.gains = [(a, b) for a, b in _numbers(kept.gains).reshape(-1, 2).tolist()]
    one.statistics = _numbers(kept.statistics).reshape(-1, len(names(nfe))).tolist()
    return one


def _text(values: Array) -> str:
    return base64.b64encode(np.asarray(values, "<f8").tobytes()).decode()


def _numbers(text: str, count: int | None = None) -> Array:
    found = np.frombuffer(base64.b64decode(text, validate=True), "<f8")
    if count is not None and len(found) != count:
        raise ValueError(f"{len(found)} numbers in place of {count}")
    return found
