"""Measuring samplers: errors to the converged solution, Fréchet distance, and studies over network calls."""

from longstride.calibration.reference import Errors, errors
from longstride.evaluation.frechet import FeatureNet, FrechetReference
from longstride.evaluation.study import CONTESTANTS, Study, run_study

__all__ = ["CONTESTANTS", "Errors", "FeatureNet", "FrechetReference", "Study", "errors", "run_study"]
