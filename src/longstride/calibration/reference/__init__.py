"""Converged solutions to compare with: one run, a run that can be asked at any level, and that of many samples."""
