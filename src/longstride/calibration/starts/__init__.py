"""Starts of fits: classical solvers, on the usual grids and on grids that are made for a network."""
