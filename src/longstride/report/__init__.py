"""A proof of concept as one page: what was measured, what follows from it, and the page that shows both.

Outcome (numbers) → decision (a pure function) → page (a template). Each step needs nothing but the one before.
"""

from longstride.report.asked import FULL, QUICK, Asked, Effort
from longstride.report.decision import Decision, Recommendation, decide
from longstride.report.language import load_language
from longstride.report.measure import run_poc
from longstride.report.outcome import Figures, Outcome, figures_of, load_outcome, save_outcome
from longstride.report.page import render, write_page
from longstride.report.stages import card_name, plan_of
from longstride.report.words import headline_of, reason_of, recommendation_of

__all__ = [
    "FULL",
    "QUICK",
    "Asked",
    "Decision",
    "Effort",
    "Figures",
    "Outcome",
    "Recommendation",
    "card_name",
    "decide",
    "figures_of",
    "headline_of",
    "load_language",
    "load_outcome",
    "plan_of",
    "reason_of",
    "recommendation_of",
    "render",
    "run_poc",
    "save_outcome",
    "write_page",
]
