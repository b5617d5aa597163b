r"""The three families of processes, and the published rules for beta.

Every process in use is :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. Its *family* says how alpha follows from the
ratio :math:`\rho = \sigma_t / \alpha_t`:

========  ===========================  =======================================
family    constraint                   networks
========  ===========================  =======================================
``ve``    alpha = 1                    EDM, k-diffusion, NCSN
``vp``    alpha² + sigma² = 1          DDPM, Stable Diffusion 1/2/XL, DiT
``flow``  alpha + sigma = 1            rectified flow: SD3, Flux
========  ===========================  =======================================
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from longstride.arrays import Array
from longstride.errors import unknown

__all__ = [
    "Family",
    "alpha_of_ratio",
    "alpha_of_sigma",
    "part_of_ratio",
    "products_of_rule",
    "ratio_of_part",
    "told_levels",
]

Family = Literal["ve", "vp", "flow"]


def alpha_of_ratio(family: Family, ratio: ArrayLike) -> Array:
    """Alpha of a process at ``sigma / alpha = ratio``, in the shape of ``ratio``; the ratio may be infinite."""
    rho = np.asarray(ratio, np.float64)
    if family == "ve":
        return np.ones_like(rho)
    return 1.0 / np.hypot(1.0, rho) if family == "vp" else 1.0 / (1.0 + rho)


def alpha_of_sigma(family: Family, sigma: ArrayLike) -> Array:
    """Alpha of a process at its own ``sigma``, in the shape of ``sigma``."""
    level = np.asarray(sigma, np.float64)
    if family == "ve":
        return np.ones_like(level)
    with np.errstate(invalid="ignore"):  # NaN above 1, where the scale has no level
        return np.sqrt((1 - level) * (1 + level)) if family == "vp" else 1.0 - level


def part_of_ratio(ratio: ArrayLike) -> Array:
    """``sigma / (alpha + sigma)``, a flow's own sigma, in the shape of ``ratio``; 1 at an infinite ratio."""
    with np.errstate(divide="ignore"):
        return np.asarray(1 / (1 + 1 / np.asarray(ratio, np.float64)))


def ratio_of_part(part: ArrayLike) -> Array:
    """``sigma / alpha`` at ``sigma / (alpha + sigma)``, in the shape of ``part``; infinite at 1."""
    level = np.asarray(part, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(level / (1 - level))


def told_levels(family: Family, alphas: Array, sigmas: Array) -> Array:
    """Levels as diffusers lists them: ``sigma / alpha``, infinite at alpha 0; sigma itself for a flow."""
    if family == "flow":
        return sigmas
    with np.errstate(divide="ignore"):
        return np.asarray(sigmas / alphas)


def products_of_rule(rule: str, beta_start: float, beta_end: float, steps: int) -> Array:
    """Products of ``1 - beta`` at the training times of a VP process, shape ``(steps,)``.

    Args:
        rule: ``"linear"`` (DDPM), ``"scaled_linear"`` (latent diffusion) or ``"cosine"`` (improved DDPM).
        beta_start: First beta; unused by ``cosine``.
        beta_end: Last beta; unused by ``cosine``.
        steps: Number of training times.

    Raises:
        InputError: unknown rule.

    References:
        Ho, Jain & Abbeel, 2020, Sec. 4 (linear); Rombach et al., 2022 (scaled linear); Nichol & Dhariwal, 2021,
        Eq. (17) (cosine).
    """
    if rule == "linear":
        betas = np.linspace(beta_start, beta_end, steps)
    elif rule == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
    elif rule == "cosine":
        bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    else:
        raise unknown("beta schedule", rule, ("linear", "scaled_linear", "cosine"))
    return np.asarray(np.cumprod(1 - betas), np.float64)
