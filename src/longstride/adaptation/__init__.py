"""Online adaptation: live reference runs teach a card, and what it learns enters a roll-out as a candidate."""

from longstride.adaptation.adaptation import Adaptation
from longstride.adaptation.intake import REASONS, Reason
from longstride.adaptation.proposing import Proposal
from longstride.adaptation.records import AdaptationStatus, Observed
from longstride.adaptation.settings import AdaptationSettings
from longstride.adaptation.state import Counters

__all__ = [
    "REASONS",
    "Adaptation",
    "AdaptationSettings",
    "AdaptationStatus",
    "Counters",
    "Observed",
    "Proposal",
    "Reason",
]
