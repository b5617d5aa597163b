r"""The process of a pipeline: the scale of its states, its network's clock, and what the network predicts.

Every process is :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. A scheduler of diffusers turns the network's output
into a clean picture by two weights, one for the state and one for the output. The name of a process says which ones:

============  ==============================  =========================================================
process       states                          networks
============  ==============================  =========================================================
``vp``        alpha² + sigma² = 1             DDPM, Stable Diffusion, CogVideoX, Stable Video Diffusion
``flow``      alpha + sigma = 1               SD3, Flux, Wan, Mochi
``edm``       alpha = 1                       EDM's preconditioning; told ln(sigma) / 4
``edm_atan``  alpha = 1                       EDM's preconditioning; told 2 atan(sigma) / pi (Stable Audio)
``ve``        alpha = 1                       flows on EDM's levels; the network's output is the noise (Cosmos 2)
``euler``     alpha = 1                       networks of ``vp`` whose pipeline works on the states of Euler's class
============  ==============================  =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from longstride.arrays import Array
from longstride.errors import InputError, unknown
from longstride.families import Family, alpha_of_ratio, part_of_ratio
from longstride.predictions import DIFFUSERS_PREDICTIONS, Prediction, clean_weights
from longstride.schedule import Schedule

__all__ = ["PRECONDITIONED", "PROCESSES", "SCALED", "NoiseProcess", "Process"]

#: Names of the processes, see the module.
Process = Literal["vp", "flow", "edm", "edm_atan", "ve", "euler"]
PROCESSES: tuple[Process, ...] = get_args(Process)

#: Processes with EDM's preconditioning.
PRECONDITIONED: tuple[Process, ...] = ("edm", "edm_atan")
#: Processes whose pipelines scale their states before the network sees them, and noise at the start.
SCALED: tuple[Process, ...] = (*PRECONDITIONED, "euler")

#: Names of diffusers for what a network predicts.
_PREDICTIONS: dict[str, Prediction] = {**DIFFUSERS_PREDICTIONS, "original_sample": "data"}
#: A time or a level may be this much out of the schedule, relative to its range, because diffusers rounds both.
_SLACK = 1e-6
#: Times that differ by less, relative to the range of the schedule, differ by diffusers' rounding.
_ROUNDED = 2e-3


@dataclass(frozen=True)
class NoiseProcess:
    """The process of a pipeline; see the module.

    Attributes:
        name: Name of the process.
        schedule: Scale of the states, and what the network is told at every level.
        prediction: What the network predicts, by diffusers' name.
        sigma_data: Standard deviation of the data in EDM's preconditioning, or None if there is no preconditioning.
        backwards: Whether the network's output has the other sign, as in flows whose time rises while noise falls.

    Raises:
        InputError: the network predicts something that the process does not allow.
    """

    name: Process
    schedule: Schedule
    prediction: str
    sigma_data: float | None = None
    backwards: bool = False

    def __post_init__(self) -> None:
        if self.sigma_data is None and self.prediction not in _PREDICTIONS:
            raise unknown("prediction type", self.prediction, _PREDICTIONS)
        if self.sigma_data is not None and self.prediction not in ("epsilon", "v_prediction"):
            known = ("epsilon", "v_prediction")
            raise unknown("prediction type with EDM's preconditioning", self.prediction, known)

    @property
    def family(self) -> Family:
        """Scale of the pipeline's states."""
        return self.schedule.family

    def alphas(self, ratios: ArrayLike) -> Array:
        """Alphas of the states at ``sigma / alpha``, in the shape of ``ratios``."""
        return alpha_of_ratio(self.family, ratios)

    def times_of(self, ratios: ArrayLike) -> Array:
        """What the network is told at ``sigma / alpha``, in the shape of ``ratios``."""
        return self.schedule.time_of_ratio(ratios)

    def noise_levels(self, times: ArrayLike) -> tuple[Array, Array]:
        """Alpha and sigma of the states at network times.

        Args:
            times: Network times, shape ``(B,)``.

        Returns:
            Alphas and sigmas, each of shape ``(B,)``.

        Raises:
            InputError: a time is outside of the schedule.
        """
        self.check_times(times)
        return np.array(self.schedule.alpha(times)), np.array(self.schedule.sigma(times))

    def check_times(self, times: ArrayLike) -> None:
        """Make sure that the network knows some times. A flow knows 0, too.

        Raises:
            InputError: it does not.
        """
        given, ends = np.asarray(times, np.float64), self.schedule.t_range
        if self.family == "flow":
            ends = (float(self.times_of(0.0)) if self.backwards else 0.0, ends[1])
        low, high = min(ends), max(ends)
        slack = _SLACK * (high - low)
        wrong = given[~((given >= low - slack) & (given <= high + slack))]  # NaN is wrong, too
        if len(np.atleast_1d(wrong)):
            raise InputError(
                f"the schedule has times from {low:.6g} to {high:.6g}, got {float(np.atleast_1d(wrong)[0]):.6g}"
            )

    def clean_weights(self, alpha: float, sigma: float) -> tuple[float, float]:
        """Weights of the state and of the network's output in the clean prediction.

        Args:
            alpha: Alpha of the state.
            sigma: Sigma of the state.

        Raises:
            InputError: the prediction does not tell the clean picture at this level.
        """
        sign = -1.0 if self.backwards else 1.0
        if self.sigma_data is not None:
            data, energy = self.sigma_data, sigma**2 + self.sigma_data**2
            gain = sigma * data / energy**0.5
            return data**2 / energy, gain if self.prediction == "epsilon" else -gain
        kind = _PREDICTIONS[self.prediction]
        if self.name == "euler":  # its network predicts for the state that alpha² + sigma² = 1 scales
            own = (1 + sigma**2) ** -0.5
            of_state, of_output = clean_weights(kind, own, own * sigma)
            return of_state * own, of_output
        of_state, of_output = clean_weights(kind, alpha, sigma)
        return of_state, sign * of_output

    def input_scale(self, sigma: float) -> float:
        """What the network's input is, divided by the state, at a sigma of the states."""
        if self.name == "euler":
            return float((sigma**2 + 1) ** -0.5)
        return 1.0 if self.sigma_data is None else float((sigma**2 + self.sigma_data**2) ** -0.5)

    def clock_of(self, ratios: Array, times: Array) -> tuple[tuple[float, float], ...]:
        """The clock of a run that tells the network other times than the schedule, and else nothing.

        Args:
            ratios: ``sigma / alpha`` of the network calls, shape ``(N,)``, falling.
            times: What the network is told there, shape ``(N,)``.

        Returns:
            Pairs of ``sigma / (alpha + sigma)``, rising, and the time.
        """
        low, high = self.schedule.t_range
        # diffusers rounds to whole times, and some of its classes cut them off.
        if np.allclose(self.times_of(ratios), times, rtol=0, atol=_ROUNDED * abs(high - low)):
            return ()
        return self.through(part_of_ratio(ratios), times)

    def through(self, parts: Array, times: Array) -> tuple[tuple[float, float], ...]:
        """A clock that tells given times, and goes on to the least level of the schedule.

        Args:
            parts: ``sigma / (alpha + sigma)``, shape ``(N,)``.
            times: What the network is told there, shape ``(N,)``.
        """
        low = self.schedule.t_range[0]
        pairs = dict(zip(parts.tolist(), times.tolist(), strict=True))
        return tuple(sorted({float(part_of_ratio(self.schedule.ratio(low))): low, **pairs}.items()))
