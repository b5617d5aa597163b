"""A network with a rare catastrophe, which a perturbed table meets and its base does not."""

from __future__ import annotations

from dataclasses import replace

import torch
from problems import Mixture
from toy_fits import SCHEDULE, SIGMAS, exact, noise_of, with_targets

import longstride as ls
from longstride.calibration.samples import Samples

#: The base; and a table that is exact for the first samples at other levels, see :func:`network`.
BASE = ls.build("ddim", SIGMAS)
TABLE = replace(ls.build("dpmpp_3m", ls.grid("log_snr", 4, schedule=SCHEDULE, final="sigma_min")), name="fitted")
#: The level that the table visits, and its base does not.
LEVEL = TABLE.levels[2]


def network(unlucky):
    """A mixture; at :data:`LEVEL` it sees unlucky samples in another mode.

    Args:
        unlucky: Which samples are unlucky, ``(B,)``.
    """

    def model(x, t, unlucky):
        sigma = float(t[0])
        out = Mixture()(x, sigma)
        return torch.where(unlucky[:, None], out + 3.0, out) if abs(sigma / LEVEL - 1) < 1e-3 else out

    return ls.as_denoiser(model, SCHEDULE, "data", condition={"unlucky": unlucky})


def unlucky_of(count, every=32):
    """About 3 % of the samples."""
    return torch.arange(count) % every == 5


def samples_with(unlucky, seed=0, held_out=None):
    """Samples of the network; their ends are the mixture's."""
    x = noise_of(len(unlucky), seed)
    held_out = len(x) // 2 if held_out is None else held_out
    return with_targets(Samples.of(network(unlucky), x, BASE, held_out=held_out, steps=32), exact(Mixture(), x))
