"""Measuring samplers: errors to the converged solution, Fréchet distance, and studies over network calls."""

from longstride.calibration.reference.solve import errors
from longstride.evaluation.contestants import CONTESTANTS, PAPER, Contestant
from longstride.evaluation.results import Line, Results, load_results, save_results
from longstride.evaluation.runner import Outcome, run_study
from longstride.evaluation.study import Study
from longstride.reports import Errors

__all__ = [
    "CONTESTANTS",
    "PAPER",
    "Contestant",
    "Errors",
    "Line",
    "Outcome",
    "Results",
    "Study",
    "errors",
    "load_results",
    "run_study",
    "save_results",
]
