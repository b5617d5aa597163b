"""Calibration of all numbers of a table together, by the last states of samples: the default."""
