r"""Noise schedules: how a network's time ``t`` stands for a noise level.

Samplers work in a *frame*. The default frame divides states by alpha: there alpha = 1 and sigma is the ratio
:math:`\rho = \sigma_t / \alpha_t` of the process, as in EDM and k-diffusion. Flow models, and VP models with zero
terminal SNR, keep their own scale, in which a start at alpha = 0 is finite. ``Schedule.scaled`` tells the two apart.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import Family, alpha_of_ratio, alpha_of_sigma, part_of_ratio, products_of_rule, ratio_of_part

__all__ = ["VE", "ContinuousVP", "DiscreteVP", "Flow", "Schedule", "flow_of_times"]

#: Least ratio sigma / alpha that replaces infinity when a schedule with zero terminal SNR is interpolated.
_LARGEST_RATIO = 2.0**12


class Schedule(ABC):
    """A family and a monotone map between network time and noise level.

    The constructors :meth:`edm`, :meth:`vp`, :meth:`vp_continuous`, :meth:`flow` and :meth:`from_diffusers` cover
    the models in use. All methods take scalars or arrays and return float64 arrays of the same shape.
    """

    family: Family

    @abstractmethod
    def ratio(self, t: ArrayLike) -> Array:
        """``sigma / alpha`` at network time ``t``."""

    @abstractmethod
    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        """Network time at which ``sigma / alpha = ratio``; clipped to the trained range."""

    @property
    @abstractmethod
    def t_range(self) -> tuple[float, float]:
        """Network times at the least and at the greatest level."""

    @property
    def scaled(self) -> bool:
        """Whether the sampler's frame divides states by alpha."""
        return self.family != "flow" and bool(np.isfinite(self.ratio(self.t_range[1])))

    def alpha(self, t: ArrayLike) -> Array:
        """Alpha of the process itself at network time ``t``."""
        return alpha_of_ratio(self.family, self.ratio(t))

    def sigma(self, t: ArrayLike) -> Array:
        """Sigma of the process itself at network time ``t``."""
        rho = self.ratio(t)
        finite = np.where(np.isinf(rho), 1.0, rho)
        return np.where(np.isinf(rho), 1.0, finite * alpha_of_ratio(self.family, finite))

    def frame_alpha(self, sigma: ArrayLike) -> Array:
        """Alpha in the sampler's frame at the frame's ``sigma``: 1 when scaled."""
        return alpha_of_sigma("ve" if self.scaled else self.family, sigma)

    def frame_ratio(self, sigma: ArrayLike) -> Array:
        """``sigma / alpha`` at the frame's ``sigma``."""
        level = np.asarray(sigma, np.float64)
        with np.errstate(divide="ignore"):
            return level / self.frame_alpha(level)

    def frame_sigma(self, t: ArrayLike) -> Array:
        """The frame's sigma at network time ``t``."""
        return self.ratio(t) if self.scaled else self.sigma(t)

    def time(self, sigma: ArrayLike) -> Array:
        """Network time at the frame's ``sigma``."""
        return self.time_of_ratio(self.frame_ratio(sigma))

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Least and greatest level in the sampler's frame."""
        low, high = self.t_range
        return float(self.frame_sigma(low)), float(self.frame_sigma(high))

    @property
    def pacing(self) -> tuple[float, float]:
        """Bounds of the variable in which a ``uniform`` grid is even: network time, unless the schedule is shifted."""
        return self.t_range

    def paced_time(self, u: ArrayLike) -> Array:
        """Network time at value ``u`` of the pacing variable."""
        return np.asarray(u, np.float64)

    # Constructors

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> VE:
        """Variance-exploding schedule of EDM: alpha = 1 and ``t = sigma`` (Karras et al., 2022, Table 1)."""
        return VE(sigma_min, sigma_max)

    @staticmethod
    def vp(
        alphas_cumprod: ArrayLike | None = None,
        *,
        beta_schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        steps: int = 1000,
    ) -> DiscreteVP:
        """Discrete-time VP schedule, from products of ``1 - beta`` or from a published rule for beta.

        Args:
            alphas_cumprod: Products of ``1 - beta``, shape ``(T,)``, decreasing. The other arguments are then unused.
            beta_schedule: ``"linear"`` (DDPM), ``"scaled_linear"`` (latent diffusion) or ``"cosine"`` (improved DDPM).
            beta_start: First beta.
            beta_end: Last beta.
            steps: Number of training times ``T``.

        Raises:
            InputError: unknown rule, or products that do not decrease within [0, 1).
        """
        if alphas_cumprod is not None:
            return DiscreteVP(tuple(np.asarray(alphas_cumprod, np.float64).tolist()))
        return DiscreteVP(tuple(products_of_rule(beta_schedule, beta_start, beta_end, steps).tolist()))

    @staticmethod
    def vp_continuous(
        beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
    ) -> ContinuousVP:
        """Continuous VP schedule of score-SDE: ``beta`` linear from ``beta_min`` at 0 to ``beta_max`` at ``t_max``."""
        return ContinuousVP(beta_min, beta_max, t_min, t_max)

    @staticmethod
    def flow(shift: float = 1.0, time_scale: float = 1000.0, sigma_min: float = 1e-3) -> Flow:
        """Rectified flow: ``alpha = 1 - sigma``; the network is told ``time_scale * sigma``.

        Args:
            shift: Time shift of SD3, applied to uniform grids: ``shift * u / (1 + (shift - 1) * u)``.
            time_scale: Factor from sigma to the time that the network is told (1000 in diffusers).
            sigma_min: Least level that the network knows.
        """
        return Flow(shift, time_scale, sigma_min)

    @staticmethod
    def from_diffusers(scheduler: Any) -> Schedule:
        """The schedule of a diffusers scheduler for flow matching, for EDM, or with ``alphas_cumprod``.

        Raises:
            InputError: a scheduler of another kind.
        """
        config: Any = scheduler.config
        name = type(scheduler).__name__
        if config.get("invert_sigmas") or config.get("timestep_type") == "continuous" or "scale_factors" in config:
            raise InputError(f"cannot read a noise schedule from this {name}: its network is told unusual times")
        if name.startswith("FlowMatch") or config.get("use_flow_sigmas", False):
            shift = config.get("flow_shift" if config.get("use_flow_sigmas", False) else "shift", 1.0)
            return flow_of_times(float(config.get("num_train_timesteps", 1000)), float(shift or 1.0))
        if name.startswith("EDM"):
            return VE(float(config["sigma_min"]), float(config["sigma_max"]))
        if not hasattr(scheduler, "alphas_cumprod"):
            raise InputError(
                f"cannot read a noise schedule from {name}: expected a flow-matching or EDM scheduler, or one with "
                "alphas_cumprod; build the schedule with Schedule.vp, .edm or .flow instead"
            )
        table = scheduler.alphas_cumprod.double().cpu().numpy()
        if config.get("rescale_betas_zero_snr", False):
            table[-1] = 0.0  # some schedulers write 2^-24 there, above the entry before it
        return DiscreteVP(tuple(table.tolist()))


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: alpha = 1 and the network time is sigma itself."""

    sigma_min: float
    sigma_max: float
    family: Family = "ve"

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def ratio(self, t: ArrayLike) -> Array:
        return np.asarray(t, np.float64)

    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        return np.clip(np.asarray(ratio, np.float64), *self.t_range)

    @property
    def t_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max


@dataclass(frozen=True)
class DiscreteVP(Schedule):
    """VP at times ``0 … T - 1``; between them ``log(sigma / alpha)`` is linear in time."""

    alphas_cumprod: tuple[float, ...]
    family: Family = "vp"

    def __post_init__(self) -> None:
        table = np.asarray(self.alphas_cumprod)
        if table.ndim != 1 or len(table) < 2 or not np.all(np.diff(table) < 0) or not (table[-1] >= 0 and table[0] < 1):
            raise InputError("alphas_cumprod must be a decreasing list of at least two numbers in [0, 1)")

    @cached_property
    def _log_ratios(self) -> Array:
        table = np.asarray(self.alphas_cumprod)
        if table[-1] == 0:
            table = np.append(table[:-1], min(1.0 / (1.0 + _LARGEST_RATIO**2), table[-2] / 4))
        return cast(Array, 0.5 * (np.log1p(-table) - np.log(table)))

    def ratio(self, t: ArrayLike) -> Array:
        times = np.asarray(t, np.float64)
        rho = np.exp(np.interp(times, np.arange(len(self.alphas_cumprod)), self._log_ratios))
        if self.alphas_cumprod[-1] == 0:
            rho = np.where(times >= self.t_range[1], np.inf, rho)
        return cast(Array, rho)

    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            log_ratio = np.log(np.asarray(ratio, np.float64))
        return np.interp(log_ratio, self._log_ratios, np.arange(len(self.alphas_cumprod), dtype=np.float64))

    @property
    def t_range(self) -> tuple[float, float]:
        return 0.0, float(len(self.alphas_cumprod) - 1)


@dataclass(frozen=True)
class ContinuousVP(Schedule):
    r"""VP with :math:`\log\alpha_t = -\tfrac12\int_0^t\beta`, beta linear in time (Song et al., 2021, Eq. 33)."""

    beta_min: float
    beta_max: float
    t_min: float
    t_max: float
    family: Family = "vp"

    def __post_init__(self) -> None:
        if not (0 < self.t_min < self.t_max and 0 < self.beta_min <= self.beta_max):
            raise InputError(f"expected 0 < t_min < t_max and 0 < beta_min <= beta_max, got {self}")

    def ratio(self, t: ArrayLike) -> Array:
        times = np.asarray(t, np.float64)
        integral = self.beta_min * times + (self.beta_max - self.beta_min) * times**2 / (2 * self.t_max)
        return cast(Array, np.sqrt(np.expm1(integral)))

    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        integral = np.log1p(np.minimum(np.asarray(ratio, np.float64), self.ratio(self.t_max)) ** 2)
        slope = (self.beta_max - self.beta_min) / self.t_max
        # The root of slope/2 t² + beta_min t = integral, in the form that is stable for a slope of 0.
        times = 2 * integral / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * integral))
        return cast(Array, np.clip(times, *self.t_range))

    @property
    def t_range(self) -> tuple[float, float]:
        return self.t_min, self.t_max


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow on its own scale: sigma runs from 1 (noise, alpha = 0) to 0."""

    shift: float
    time_scale: float
    sigma_min: float
    family: Family = "flow"

    def __post_init__(self) -> None:
        if not (self.shift > 0 and self.time_scale > 0 and 0 < self.sigma_min < 1):
            raise InputError(f"expected positive shift and time_scale and 0 < sigma_min < 1, got {self}")

    def ratio(self, t: ArrayLike) -> Array:
        return ratio_of_part(np.asarray(t, np.float64) / self.time_scale)

    def time_of_ratio(self, ratio: ArrayLike) -> Array:
        return np.clip(self.time_scale * part_of_ratio(ratio), *self.t_range)

    @property
    def t_range(self) -> tuple[float, float]:
        return self.time_scale * self.sigma_min, self.time_scale

    @property
    def pacing(self) -> tuple[float, float]:
        return self.sigma_min / (self.shift - (self.shift - 1) * self.sigma_min), 1.0

    def paced_time(self, u: ArrayLike) -> Array:
        value = np.asarray(u, np.float64)
        return self.time_scale * self.shift * value / (1 + (self.shift - 1) * value)


def flow_of_times(steps: float, shift: float = 1.0) -> Flow:
    """Rectified flow of a network with a number of training times; its least time is the first of them."""
    return Flow(shift, steps, 1.0 / steps if steps > 1 else 1e-3)
