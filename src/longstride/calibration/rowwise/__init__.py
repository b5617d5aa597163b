"""Calibration row by row: IIA, and fits to converged trajectories."""
