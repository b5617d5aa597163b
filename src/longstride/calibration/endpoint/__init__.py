"""Calibration of all numbers of a table together, to where samples end: the default."""
