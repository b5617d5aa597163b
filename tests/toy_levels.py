"""Levels of the three families, from the noise down, as tests of converged runs take them."""

from __future__ import annotations

import numpy as np
import torch
from problems import alpha_of

#: Last level of every frame, and its levels even in the parameter that the slopes are taken in.
LOW = {"ve": 0.05, "vp": 0.1, "flow": 0.05}
NODES = {
    "ve": lambda n: np.linspace(5.0, LOW["ve"], n + 1),
    "vp": lambda n: np.sin(np.linspace(np.pi / 2, np.arcsin(LOW["vp"]), n + 1)),
    "flow": lambda n: np.linspace(1.0, LOW["flow"], n + 1),
}


def noise(sigma, count=8, seed=0):
    return sigma * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels_of(family, sigmas):
    alphas = np.array([alpha_of(family, sigma) for sigma in sigmas])
    alphas[0] = 0.0 if family == "vp" else alphas[0]
    return alphas, np.array(sigmas)
