"""What an adaptation tells: of one request, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longstride.adaptation.intake import Reason
from longstride.adaptation.state import Counters

__all__ = ["AdaptationStatus", "Observed"]


@dataclass(frozen=True)
class Observed:
    """What became of the samples of one request.

    Attributes:
        used: Number of samples that counted.
        refused: Why others were refused; samples beyond those that are used of one request are not among them.
        calls: Network calls, in samples.
        won: Whether a candidate has won its trial, so that there is a proposal.
    """

    used: int = 0
    refused: tuple[Reason, ...] = ()
    calls: int = 0
    won: bool = False


@dataclass(frozen=True)
class AdaptationStatus:
    """Where an adaptation stands.

    Attributes:
        doing: ``"collecting"`` samples, ``"trying"`` a candidate, or ``"proposed"``: a candidate has won, and waits for
            :meth:`.Adaptation.settle`.
        counters: What became of everything so far.
        effective: Number of samples that count now, by their weights.
        tried: Number of samples in the trial.
        move: Largest distance of a free number of the card in use from the calibration's card.
        next_move: The same of the candidate, or of the candidate that the samples so far would give.
        bound: Bound of such distances.
        lineage: Digests of the tables from the calibration's to that of the card in use.
        trouble: The fault of the store that was met last, or None.
    """

    doing: Literal["collecting", "trying", "proposed"]
    counters: Counters
    effective: float
    tried: int
    move: float
    next_move: float
    bound: float
    lineage: tuple[str, ...]
    trouble: str | None
