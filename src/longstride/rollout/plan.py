"""What a roll-out is to do: its arms, its stages, and how much worse than the arm before the new card may be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from longstride.book import CardBook, load_any
from longstride.card import Card
from longstride.card_parts import Part
from longstride.errors import CardError, InputError
from longstride.rollout.metrics import METRICS

__all__ = ["STAGES", "Arm", "Plan", "Stage", "file_digest"]

#: Largest probability that a new card that is in no way worse is ever rolled back, over all comparisons together.
_FALSE_ALARMS = 0.05
#: Errors of samples count up to this many times the card's own base error: one catastrophe is not the whole mean.
_CAPPED_AT = 8.0

AnyPart = TypeVar("AnyPart", bound=Part)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Raises:
        CardError: the file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise CardError(f"cannot read {path}: {error.strerror or error}") from None


def _check_metrics(values: dict[str, float]) -> None:
    for name, value in values.items():
        if name not in METRICS:
            raise ValueError(f"unknown comparison {name!r}: known: {', '.join(METRICS)}")
        if not METRICS[name].least <= value < METRICS[name].most:
            raise ValueError(
                f"{name} must be at least {METRICS[name].least:g} and below {METRICS[name].most:g}, got {value}"
            )


class Arm(Part):
    """A way to answer requests.

    Attributes:
        name: Name in the log and in :meth:`Rollout.arm`.
        card: File of the card or book; None: the classical solver.
        digest: SHA-256 of the file when the roll-out started; None without a card.
    """

    name: str = Field(min_length=1)
    card: str | None = None
    digest: str | None = None

    @staticmethod
    def of(name: str, card: str | Path | None) -> Arm:
        """The arm of a card's file, which must be readable now.

        Raises:
            CardError: the file is no card.
        """
        if card is None:
            return Arm(name=name)
        path = Path(card).resolve()
        load_any(path)
        return Arm(name=name, card=str(path), digest=file_digest(path))

    def load(self) -> Card | CardBook | None:
        """The card of this arm; None: the classical solver.

        Raises:
            CardError: the file is missing, is no card, or was changed after the roll-out had started.
        """
        if self.card is None:
            return None
        if file_digest(self.card) != self.digest:
            raise CardError(
                f"{self.card} has changed since the roll-out started: start another roll-out for another card"
            )
        return load_any(self.card)


class Stage(Part):
    """A share of the traffic, and the evidence that ends it.

    Attributes:
        share: Share of the requests that the new card answers.
        requests: Fewest requests that it must have answered in this stage.
        measured: Fewest requests whose error must have been measured, in this and earlier stages.
        at_most: Largest values that the comparisons may still have, by their names in :data:`.METRICS`: the upper
            bound must have come down to them.
    """

    share: float = Field(gt=0, le=1)
    requests: int = Field(default=0, ge=0)
    measured: int = Field(default=0, ge=0)
    at_most: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Stage:
        _check_metrics(self.at_most)
        return self


#: The default: the error of live requests must be known from the second stage on.
STAGES = (
    Stage(share=0.01, requests=30),
    Stage(share=0.10, requests=100, measured=20, at_most={"error": 1.5}),
    Stage(share=0.50, requests=300, measured=50, at_most={"error": 1.1}),
    Stage(share=1.00, requests=500, measured=80, at_most={"error": 1.1}),
)


class Plan(Part):
    """A roll-out, as it was started.

    Attributes:
        arms: From the safest to the new one.
        stages: Shares that grow to the last one.
        tolerances: How much worse the new arm may be, by the names in :data:`.METRICS`: beyond, it is rolled back.
        false_alarms: Largest probability that an arm within all tolerances is ever rolled back.
        base_share: Share of the requests that the safest arm answers, as long as the new one leaves as many.
        error_cap: Errors count up to here in their mean, which would otherwise have no bounds.
        salt: Makes the assignment of this roll-out differ from the others'.
    """

    arms: list[Arm]
    stages: list[Stage]
    tolerances: dict[str, float] = Field(default_factory=dict)
    false_alarms: float = Field(default=_FALSE_ALARMS, gt=0, lt=1)
    base_share: float = Field(default=0.0, ge=0, lt=1)
    error_cap: float = Field(default=1.0, gt=0)
    salt: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"a roll-out needs at least 2 arms with different names, got {names}")
        shares = [stage.share for stage in self.stages]
        if not shares or any(b <= a for a, b in pairwise(shares)):
            raise ValueError(f"the shares of the stages must grow, got {shares}")
        _check_metrics(self.tolerances)
        return self

    @property
    def new(self) -> str:
        """Name of the new arm."""
        return self.arms[-1].name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms, from the safest to the new one."""
        return tuple(arm.name for arm in self.arms)

    @property
    def level(self) -> float:
        """Largest probability that one comparison rolls back an arm within its tolerance."""
        return self.false_alarms / len(METRICS)

    def tolerance(self, metric: str) -> float:
        """How much worse the new arm may be."""
        return self.tolerances.get(metric, METRICS[metric].tolerance)

    def marks(self, metric: str) -> list[float]:
        """Shares of the bounds that a decision turns on."""
        values = [self.tolerance(metric), *(s.at_most[metric] for s in self.stages if metric in s.at_most)]
        return [METRICS[metric].share(value) for value in values]


def checked(kind: type[AnyPart], what: str, values: dict[str, Any]) -> AnyPart:
    """The part with these values.

    Raises:
        InputError: a value cannot be used; the message names it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{what}{f', {where}' if where else ''}: {reason}") from None


def usual_cap(arms: Sequence[Arm]) -> float:
    """Where errors are capped by default: 8 times the held-out error of the first card's base; 1 without a card."""
    for arm in arms:
        card = arm.load()
        if isinstance(card, Card) and card.end.base.rmse > 0:
            return _CAPPED_AT * card.end.base.rmse
    return 1.0
