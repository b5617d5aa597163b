"""Fewer, longer steps: the same diffusion model, the same pictures, a fraction of the network calls."""

from longstride.adaptation import Adaptation
from longstride.book import CardBook, load_book
from longstride.calibration import Calibration, Reference, calibrate, solve_reference
from longstride.calibration.choose import Choice, choose
from longstride.calibration.many import calibrate_book
from longstride.calibration.recalibrate import Recalibration, recalibrate
from longstride.card import Card, ModelInfo, load_card
from longstride.denoiser import Denoiser, as_denoiser
from longstride.errors import CardError, InputError, LongstrideError, MonitorError, NonFiniteError, StoreError
from longstride.grid import grid
from longstride.guard import Guarded, Monitor, sample, sample_guarded
from longstride.nodes import Nodes
from longstride.rollout import Rollout
from longstride.schedule import Schedule
from longstride.solvers import SOLVERS, build, steps_for_nfe
from longstride.table import Row, SolverTable
from longstride.universal import universal
from longstride.version import __version__
from longstride.zoo import Model, load_model

__all__ = [
    "SOLVERS",
    "Adaptation",
    "Calibration",
    "Card",
    "CardBook",
    "CardError",
    "Choice",
    "Denoiser",
    "Guarded",
    "InputError",
    "LongstrideError",
    "Model",
    "ModelInfo",
    "Monitor",
    "MonitorError",
    "Nodes",
    "NonFiniteError",
    "Recalibration",
    "Reference",
    "Rollout",
    "Row",
    "Schedule",
    "SolverTable",
    "StoreError",
    "__version__",
    "as_denoiser",
    "build",
    "calibrate",
    "calibrate_book",
    "choose",
    "grid",
    "load_book",
    "load_card",
    "load_model",
    "recalibrate",
    "sample",
    "sample_guarded",
    "solve_reference",
    "steps_for_nfe",
    "universal",
]
