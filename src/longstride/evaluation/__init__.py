"""Measuring samplers: errors to the converged solution, Fréchet distance, and studies over network calls."""

from longstride.calibration.reference import Errors, errors
from longstride.evaluation.frechet import FeatureNet, FrechetSpace, frechet_distance
from longstride.evaluation.study import CONTESTANTS, Study, run_study

__all__ = [
    "CONTESTANTS",
    "Errors",
    "FeatureNet",
    "FrechetSpace",
    "Study",
    "errors",
    "frechet_distance",
    "run_study",
]
