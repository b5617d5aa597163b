"""What a Gauss–Newton calibration costs: samples of every step, and network calls."""

from __future__ import annotations

from longstride.calibration.acceptance.clean_runs import CLEAN_RUNS
from longstride.calibration.endpoint.gauss_newton import TRIALS
from longstride.calibration.endpoint.jacobian import calls_of_jacobian
from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.calibration.endpoint.taught import TAUGHT
from longstride.calibration.mining import hard_samples
from longstride.calibration.reference.trajectory import FINE
from longstride.calibration.starts.classical import most_starts
from longstride.calibration.starts.dynamic_programming import TRAJECTORIES
from longstride.calibration.starts.universal import most_universal_starts

__all__ = ["jacobian_calls", "last_steps", "most_calls", "most_whole_fits", "whole_fit_samples"]


def whole_fit_samples(fitted: int, settings: GaussNewtonSettings) -> list[int]:
    """Number of samples at every step of a whole fit, rising to ``final_samples``.

    A step sees half as many samples as the next step, but at least twice ``scout_samples`` if so many are fitted. A
    single step sees all samples.
    """
    if settings.iterations == 1:
        return [fitted]
    sizes = [min(fitted, max(settings.final_samples, settings.scout_samples))]
    least = min(sizes[0], 2 * settings.scout_samples)
    while len(sizes) < settings.iterations - 1 and sizes[0] > least:
        sizes.insert(0, max(-(-sizes[0] // 2), least))
    return sizes


def last_steps(fitted: int, settings: GaussNewtonSettings) -> int:
    """Number of steps on all samples, which the chosen whole fit takes at the end."""
    return settings.iterations - len(whole_fit_samples(fitted, settings))


def jacobian_calls(nfe: int, settings: GaussNewtonSettings | None = None) -> int:
    """Network calls per sample of a Jacobian, the run of the table itself included."""
    asked = settings or GaussNewtonSettings()
    return calls_of_jacobian(asked.parameters(nfe), asked.rank)


def most_whole_fits(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings) -> int:
    """Most whole fits: one, and as many further fits as ``final_calls`` pay for; from universal tables at least one."""
    sizes, few = whole_fit_samples(fitted, settings), min(settings.scout_samples, fitted)
    # A short fit on all samples of a step leaves no new samples: the step makes a model of its own.
    jacobian = (sizes[-1] - few or sizes[-1]) * jacobian_calls(nfe, settings)
    trials = (sum(sizes) + len(sizes) * held_out) * nfe
    more = max(settings.final_calls // (jacobian + trials), int(settings.tries_universal))
    return 1 + min(max(settings.scouts - 1, 0), more)


def most_calls(nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings, reference_steps: int = 64) -> int:
    """Most network calls of a calibration, in samples, with the reference solution and without guidance.

    Args:
        nfe: Network calls K of the table; a step costs :func:`jacobian_calls` per sample.
        fitted: Number of fitted samples.
        held_out: Number of held-out samples.
        settings: Settings of the calibration.
        reference_steps: Steps of the reference solution.
    """
    few, finals = min(settings.scout_samples, fitted), most_whole_fits(nfe, fitted, held_out, settings)
    sizes, last = whole_fit_samples(fitted, settings), last_steps(fitted, settings)
    steps = finals * sizes[-1] + last * fitted
    steps += few * settings.scouts * settings.scout_iterations if settings.scouts > 1 else 0
    # Trials of steps, starts, the trajectories that choose levels, and the check at the end.
    seen = finals * len(sizes) * (sizes[-1] + 2 * held_out) + settings.scouts * few + 4 * held_out
    seen += last * (fitted + 2 * held_out)
    tried = (most_starts() * few * nfe + (FINE + 1) * TRAJECTORIES) if settings.scouts else few * nfe
    tried += (most_universal_starts() * few + 2 * held_out) * nfe if settings.tries_universal else 0
    solved = (fitted + held_out + 8) * reference_steps
    guard = _guard_calls(nfe, fitted + held_out, settings, reference_steps)
    return (
        steps * jacobian_calls(nfe, settings)
        + 2 * seen * nfe
        + tried
        + solved
        + 12 * held_out * nfe
        + guard
        + CLEAN_RUNS * nfe
    )


def _guard_calls(nfe: int, samples: int, settings: GaussNewtonSettings, reference_steps: int) -> int:
    """Most network calls of the guard, in samples: scales of its fits, its own fit, and its fresh samples."""
    if not settings.guard_share:
        return 0
    asked = settings.guarding()
    fresh = 2 * asked.look(samples)
    calls = nfe * (3 * samples + 2 * fresh) + reference_steps * (fresh + 8 * bool(fresh))
    many = asked.pool(samples)
    return calls + (_mining_calls(nfe, samples, many, settings, reference_steps) if many else 0)


def _mining_calls(nfe: int, samples: int, many: int, settings: GaussNewtonSettings, reference_steps: int) -> int:
    """Most network calls of two pools of ``many`` samples, and of the steps on hard samples of the first."""
    hard = hard_samples(many, settings.guard_hard)
    pools = 2 * (2 * nfe * (many + hard) + reference_steps * (hard + 8))
    steps = TAUGHT * (samples + hard) * jacobian_calls(nfe, settings)
    # Trials of steps, errors of the start, and runs that tell which of the samples are hard.
    return pools + steps + (TRIALS * TAUGHT + 3) * (samples + hard) * nfe
