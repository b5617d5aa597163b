"""What a Gauss–Newton calibration costs: samples of every step, and network calls."""

from __future__ import annotations

from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.calibration.reference.trajectory import FINE
from longstride.calibration.starts.classical import most_starts
from longstride.calibration.starts.dynamic_programming import TRAJECTORIES

__all__ = ["last_steps", "most_calls", "most_whole_fits", "whole_fit_samples"]


def whole_fit_samples(fitted: int, settings: GaussNewtonSettings) -> list[int]:
    """Samples of every step of a whole fit: at the last all that it sees, before it half as many.

    But never fewer than twice as many as short fits see, if there are. A single step sees all samples.
    """
    if settings.iterations == 1:
        return [fitted]
    sizes = [min(fitted, max(settings.final_samples, settings.scout_samples))]
    least = min(sizes[0], 2 * settings.scout_samples)
    while len(sizes) < settings.iterations - 1 and sizes[0] > least:
        sizes.insert(0, max(-(-sizes[0] // 2), least))
    return sizes


def last_steps(fitted: int, settings: GaussNewtonSettings) -> int:
    """Steps that the whole fit that is used takes on all samples."""
    return settings.iterations - len(whole_fit_samples(fitted, settings))


def _step_calls(nfe: int, settings: GaussNewtonSettings) -> int:
    """Network calls per sample of a Jacobian, with the run that it is made beside: about ``K³ / 6``."""
    reach = settings.window or nfe
    return nfe + sum((min(k, reach) + settings.levels + settings.column) * (nfe - k) for k in range(1, nfe))


def most_whole_fits(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings) -> int:
    """How many whole fits there are at most: as many more than one as ``final_calls`` pay for."""
    sizes, few = whole_fit_samples(fitted, settings), min(settings.scout_samples, fitted)
    # Where a short fit saw all that there is, its model serves for no further step, and another one is made.
    jacobian = (sizes[-1] - few or sizes[-1]) * _step_calls(nfe, settings)
    trials = (sum(sizes) + len(sizes) * held_out) * nfe
    return 1 + min(max(settings.scouts - 1, 0), settings.final_calls // (jacobian + trials))


def most_calls(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings, reference_steps: int = 64) -> int:
    """Network calls in samples that a calibration makes at most, its reference included and guidance not.

    Args:
        nfe: Network calls K of the table; a step costs about ``K³ / 6`` per sample.
        fitted: Samples that are fitted.
        held_out: Samples that decide.
        settings: Of the calibration.
        reference_steps: Steps of the converged solution.
    """
    few, finals = min(settings.scout_samples, fitted), most_whole_fits(nfe, fitted, held_out, settings)
    sizes, last = whole_fit_samples(fitted, settings), last_steps(fitted, settings)
    steps = finals * sizes[-1] + last * fitted
    steps += few * settings.scouts * settings.scout_iterations if settings.scouts > 1 else 0
    # A few trials of every step, every start, the trajectories that choose levels, and the check.
    seen = finals * len(sizes) * (sizes[-1] + 2 * held_out) + settings.scouts * few + 4 * held_out
    seen += last * (fitted + 2 * held_out)
    tried = (most_starts() * few * nfe + (FINE + 1) * TRAJECTORIES) if settings.scouts else few * nfe
    solved = (fitted + held_out + 8) * reference_steps
    return steps * _step_calls(nfe, settings) + 2 * seen * nfe + tried + solved + 12 * held_out * nfe
