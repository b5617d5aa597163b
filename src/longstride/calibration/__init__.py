"""Calibration: from a table and a few measurements to a better table of the same cost."""

from longstride.calibration.calibrate import Calibration, calibrate
from longstride.calibration.method import Method
from longstride.calibration.methods import METHODS
from longstride.calibration.reference.solve import Reference, solve_reference

__all__ = ["METHODS", "Calibration", "Method", "Reference", "calibrate", "solve_reference"]
