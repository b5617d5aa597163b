"""Fewer, longer steps: the same diffusion model, the same pictures, a fraction of the network calls."""

from longstride.denoiser import Denoiser, as_denoiser
from longstride.errors import CardError, InputError, LongstrideError, NonFiniteError
from longstride.grid import grid
from longstride.nodes import Nodes
from longstride.sampler import sample
from longstride.schedule import Schedule
from longstride.solvers import SOLVERS, build, steps_for_nfe
from longstride.table import Row, SolverTable

__all__ = [
    "SOLVERS",
    "CardError",
    "Denoiser",
    "InputError",
    "LongstrideError",
    "Nodes",
    "NonFiniteError",
    "Row",
    "Schedule",
    "SolverTable",
    "as_denoiser",
    "build",
    "grid",
    "sample",
    "steps_for_nfe",
]
__version__ = "0.1.0"
