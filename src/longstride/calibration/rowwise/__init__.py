"""Calibration row by row: IIA, and fits to reference trajectories."""
