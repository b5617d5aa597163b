"""Calibration: from a table and a few measurements to a better table of the same cost."""

from longstride.calibration.calibrate import METHODS, Calibration, calibrate
from longstride.calibration.reference import Reference, solve_reference

__all__ = ["METHODS", "Calibration", "Reference", "calibrate", "solve_reference"]
