"""Calibration through ComfyUI's own guider; the nodes that call this are in the folder ``comfyui`` of the repository.

ComfyUI makes a denoiser only inside of a sampling call: there the model is loaded, the conditioning is encoded, and
guidance, ControlNets, hooks and masks are in force. So a calibration is one sampling call whose sampler calibrates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.calibrate import Calibration, Progress, calibrate
from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
from longstride.card import ModelInfo
from longstride.errors import InputError
from longstride.integrations.k_diffusion import KDenoiser, sampling_is_flow
from longstride.sampler import DenoiserLike
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["base_table", "calibrate_guided", "one_prompt"]

#: Relative change of a repeated answer above which a network is no function of state and level.
_SAME = 1e-2


def calibrate_guided(
    guider: Any,
    sampler_of: Callable[[Callable[..., Tensor]], Any],
    sampling: Any,
    latent: Tensor,
    *,
    nfe: int,
    samples: int | None = None,
    held_out: int = HELD_OUT,
    seed: int = 0,
    name: str = "unnamed",
    progress: Progress | None = None,
    called: Callable[[], object] | None = None,
    **settings: Any,
) -> Calibration:
    """Calibrate what one of ComfyUI's guiders samples.

    Args:
        guider: A guider such as ``comfy.samplers.CFGGuider``, with its conditioning and its scale.
        sampler_of: Makes a SAMPLER from a function, such as ``comfy.samplers.KSAMPLER``.
        sampling: The model's ``model_sampling``: its levels, and how it adds noise.
        latent: Gives the shape of the states, ``(B, *)``, and the samples per network call, B.
        nfe: Network calls per picture.
        samples: Number of samples that are fitted; default: 96, and 128 up to 6 calls.
        held_out: Number of further samples, which decide whether the fit is accepted.
        seed: Seed of the noise.
        name: Name of the model, for the card.
        progress: As in :func:`longstride.calibrate`.
        called: Called after every network call; ComfyUI stops the work there if the user asks for it.
        **settings: Further arguments of :func:`longstride.calibrate`.

    Raises:
        InputError: a model on a scale that longstride does not know, too few levels, or a network that answers the same
            question in two ways, as step caches do.
    """
    table, batch = base_table(sampling, nfe), len(latent)
    total = (fitted_samples(nfe) if samples is None else samples) + held_out
    first = torch.tensor([table.levels[0]], dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    empty = torch.zeros(total, *latent.shape[1:])
    drawn = torch.randn(empty.shape, generator=generator)
    found: list[Calibration] = []

    def calibrates(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, *_: Any, **others: Any) -> Tensor:
        del sigmas, others
        network = KDenoiser(model, extra_args, called)
        noise = sampling.noise_scaling(first, drawn, empty, True).to(x)  # as ComfyUI makes the first state of a run
        check_repeats(network, noise[:batch], table)
        result = calibrate(
            network,
            noise,
            table,
            held_out=held_out,
            batch_size=batch,
            sigma_floor=float(sampling.sigma_min),
            model=ModelInfo(name=name, guidance=getattr(guider, "cfg", None), shape=tuple(latent.shape[1:])),
            seed=seed,
            progress=progress,
            **settings,
        )
        found.append(result)
        return x

    levels = torch.tensor(table.levels, dtype=torch.float32)
    guider.sample(drawn[:batch], torch.zeros_like(latent), sampler_of(calibrates), levels, disable_pbar=True, seed=seed)
    return found[0]


def base_table(sampling: Any, nfe: int) -> SolverTable:
    """DPM-Solver++(2M) on levels that lie evenly in a model's own list of levels, and end at 0.

    Args:
        sampling: ComfyUI's ``model_sampling``; its ``sigmas`` rise, and follow its shift.
        nfe: Network calls.

    Raises:
        InputError: fewer levels than calls.
    """
    known = np.array(sampling.sigmas.tolist(), np.float64)
    if not 1 <= nfe <= len(known):
        raise InputError(f"network calls must be from 1 to {len(known)}, the levels of this model, got {nfe}")
    levels = np.append(known[[len(known) - 1 - i * len(known) // nfe for i in range(nfe)]], 0.0)
    if not sampling_is_flow(sampling):
        return build("dpmpp_2m", levels)
    levels[np.isclose(levels, 1, rtol=0, atol=1e-6)] = 1.0  # float32 may put pure noise beside 1
    return build("dpmpp_2m", levels, alphas=1 - levels)


def check_repeats(network: DenoiserLike, x: Tensor, table: SolverTable) -> None:
    """Make sure that a network gives one answer to one question, with another question between.

    Raises:
        InputError: it gives two.
    """
    last = table.levels[-2]
    once = network(x.clone(), table.levels[0]).clone()
    network(x * (last / table.levels[0]), last)
    change = float((network(x.clone(), table.levels[0]) - once).norm() / once.norm().clamp_min(1e-12))
    if not change <= _SAME:
        raise InputError(
            f"this model answers the same question in two ways (they differ by {change:.2g} of their size), as with a "
            "step cache or random parts: take them off the model, and calibrate again"
        )


def one_prompt(*conditionings: Any) -> None:
    """Make sure that conditionings are the same for every sample.

    Args:
        *conditionings: ComfyUI's lists of ``[tensor (B, tokens, width), options]``.

    Raises:
        InputError: one of them holds several prompts.
    """
    for tensor, _ in (part for conditioning in conditionings for part in conditioning):
        if tensor is not None and len(tensor) > 1:
            raise InputError(f"the conditioning holds {len(tensor)} prompts: calibrate with one")
