"""A sampler function for k-diffusion and what is built on it: ComfyUI, Forge, and everything with its call.

k-diffusion calls samplers as ``sampler(model, x, sigmas, extra_args, callback, disable)``. There ``model(x, sigma)``
returns the clean prediction, like a denoiser of this package, but takes the level as a tensor.

The states of most networks are divided by alpha, so that alpha = 1 and levels are ``sigma / alpha``. Flow models keep
their own scale: ComfyUI hands them over with ``x = (1 - sigma) x_0 + sigma eps`` and levels from 1 down. Pure noise of
a network with zero terminal SNR has no finite ``sigma / alpha``; a very high level stands for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.card import Card, load_card, same_start
from longstride.errors import CardError, InputError
from longstride.sampler import sample
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["KDenoiser", "is_flow", "sample_longstride", "sigmas_of"]

#: ComfyUI's level of pure noise for networks with zero terminal SNR; its square is ``1 / alpha² - 1``.
PURE_NOISE = (1 / 4.8973451890853435e-08 - 1) ** 0.5
#: Lowest level that can stand for pure noise.
_NEARLY_PURE = 1000.0


class KDenoiser:
    """A network in k-diffusion's form as a denoiser.

    Args:
        model: ``model(x, sigma, **extra_args)`` returns the clean prediction, for ``sigma`` of shape ``(B,)``.
        extra_args: Keyword arguments of every call.
        called: Called after every call, or None.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        extra_args: Mapping[str, Any] | None = None,
        called: Callable[[], object] | None = None,
    ) -> None:
        self.model, self.extra_args, self.called = model, dict(extra_args or {}), called

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        prediction = self.model(x, sigma * x.new_ones([x.shape[0]]), **self.extra_args)
        if self.called is not None:
            self.called()
        return prediction


def sample_longstride(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    solver: str = "dpmpp_2m",
    card: Card | str | Path | None = None,
    strict: bool = False,
    flow: bool | None = None,
    **options: Any,
) -> Tensor:
    """Draw samples as k-diffusion's own functions do.

    Args:
        model: ``model(x, sigma, **extra_args)`` returns the clean prediction, for ``sigma`` of shape ``(B,)``.
        x: ``sigmas[0]`` times standard normal noise, shape ``(B, *)``.
        sigmas: Levels, falling, shape ``(N + 1,)``: sigma of a flow, ``sigma / alpha`` otherwise; the last may be 0.
        extra_args: Keyword arguments of every call of ``model``.
        callback: Called once per step, after its first call of ``model``, with a dictionary of ``x``, the step ``i``,
            ``sigma``, ``sigma_hat`` and ``denoised``.
        disable: Whether to draw no progress bar.
        solver: Name of the classical solver. Beside a card it runs if the card does not apply.
        card: A calibrated sampler or its path; its levels replace ``sigmas``, see :func:`sigmas_of`.
        strict: Whether a card that does not apply is an error. Otherwise there is one warning.
        flow: Whether ``model`` is a flow. Default: ComfyUI's models say it; otherwise the card says it, and ``sigmas``
            must agree; without a card no.
        **options: Options of the classical solver, see :func:`longstride.build`.

    Returns:
        The samples, in the shape and dtype of ``x``.

    Raises:
        CardError: the card cannot be read; or ``strict``, and it is for another number of calls, first level, shape or
            guidance scale.
        InputError: unknown solver or options, levels that do not fall, or a card of a flow for a model that is no flow,
            or the reverse.
        NonFiniteError: the result holds NaN or infinity.

    References:
        https://github.com/crowsonkb/k-diffusion
    """
    from tqdm.auto import tqdm

    levels = np.array(sigmas.tolist(), np.float64)  # by Python's numbers: some devices have no float64
    flow = is_flow(model) if flow is None else flow
    table = _table(levels, flow, tuple(x.shape[1:]), _guidance(model), solver, card, strict, options)
    steps = {call: i for i, call in enumerate(table.grid[:-1])}
    start = x * float(table.sigmas[0] / levels[0])
    with tqdm(total=table.nfe, disable=disable) as bar:

        def told(k: int, sigma: float, state: Tensor, prediction: Tensor) -> None:
            if callback is not None and k in steps:
                level = state.new_tensor(sigma)
                callback({"x": state, "i": steps[k], "sigma": level, "sigma_hat": level, "denoised": prediction})

        return sample(KDenoiser(model, extra_args, bar.update), start, table, callback=told)


def sigmas_of(card: Card | str | Path) -> Tensor:
    """Levels of a card as k-diffusion's schedulers give them.

    Args:
        card: A card or its path.

    Returns:
        The level of every step and the last level, float32, shape ``(N + 1,)``. They are those of a flow if the card
        is for a flow. Pure noise of a network with zero terminal SNR has ComfyUI's level, 4518.8.

    Raises:
        CardError: the card cannot be read.
        InputError: the card's states are on a scale that k-diffusion does not know.
    """
    loaded = _loaded(card)
    flow = _of_flow(loaded, None)
    table = loaded.table if flow else _divided(loaded.table, PURE_NOISE)
    return torch.from_numpy(table.sigmas[list(table.grid)]).float()


def is_flow(model: object) -> bool | None:
    """Whether a network, as ComfyUI hands it to samplers, is a flow; None if it does not say how it scales its states.

    Args:
        model: The network. It, or what it wraps, may have ``model_sampling``, which adds noise to pictures.

    Raises:
        InputError: states are neither those of a flow nor divided by alpha.
    """
    sampling, inner = None, model
    while sampling is None and inner is not None:
        sampling, inner = getattr(inner, "model_sampling", None), getattr(inner, "inner_model", None)
    return None if sampling is None else sampling_is_flow(sampling)


def sampling_is_flow(sampling: Any) -> bool:
    """Whether ComfyUI's ``model_sampling`` is that of a flow: how much of a picture it keeps at level 1/2 tells it.

    Raises:
        InputError: it keeps another part than a flow, and less than all.
    """
    one = torch.ones(1, 1)
    kept = float(sampling.noise_scaling(torch.tensor([0.5]), torch.zeros(1, 1), one))
    if abs(kept - 1) > 1e-3 and abs(kept - 0.5) > 1e-3:
        raise InputError(
            f"this model keeps {kept:.3g} of a picture at level 0.5: expected 1 (states divided by alpha) or 0.5 (a "
            "flow); longstride does not know its scale"
        )
    return kept < 0.75


def _guidance(model: object) -> float | None:
    """Scale of ComfyUI's guider; None if there is none."""
    scale = getattr(getattr(model, "inner_model", None), "cfg", None)
    return float(scale) if isinstance(scale, (int, float)) else None


def _loaded(card: Card | str | Path) -> Card:
    return card if isinstance(card, Card) else load_card(card)


def _of_flow(card: Card, flow: bool | None) -> bool:
    """Whether a card is for a flow.

    Args:
        card: The card.
        flow: Whether the model is a flow, if that is known; it decides what the card leaves open.

    Raises:
        InputError: the card's states are on a scale that k-diffusion does not know.
    """
    alphas, sigmas = card.table.alphas, card.table.sigmas
    linear, preserving = (bool(np.allclose(total, 1, atol=1e-6)) for total in (alphas + sigmas, alphas**2 + sigmas**2))
    if linear and preserving:  # one step from pure noise to a picture
        family = card.schedule.family
        return (flow is not False) if family is None else family == "flow"
    if not (linear or preserving or np.allclose(alphas, 1, atol=1e-6)):
        raise InputError(
            "this card's states are on a scale of their own: expected alpha = 1, a flow's, or a variance-preserving "
            "one; use longstride.sample"
        )
    return linear


def _divided(table: SolverTable, pure: float) -> SolverTable:
    """A table on the scale alpha = 1.

    Args:
        table: The table; alpha may be 0 at its first state.
        pure: Level that stands for pure noise.
    """
    alphas = np.where(table.alphas == 0, 1 / np.hypot(1, pure), table.alphas)
    return table if (alphas == 1).all() else table.rescaled(1 / alphas)


def _on_scale(card: Card, flow: bool | None, levels: Array) -> tuple[SolverTable, bool]:
    """The card's table on the scale of the model, and whether that is a flow's.

    Raises:
        InputError: the card is of a flow and the model is not, or the reverse.
    """
    first, of_flow = float(levels[0]), _of_flow(card, flow)
    fits, start = first <= 1 + 1e-4, float(card.table.sigmas[0])
    if of_flow and (flow is False or not fits):
        why = "this model is none" if flow is False else f"these levels begin at {first:.4g}, above 1"
        raise InputError(f"this card is for a flow, but {why}: take a card that was calibrated on this model")
    if flow and (not of_flow or not fits):
        why = f"these levels begin at {first:.4g}, above 1" if of_flow else "this card is for another kind of network"
        raise InputError(f"this model is a flow, but {why}: take the card's own levels, and a card of this model")
    if flow is None and not of_flow and fits and not same_start(start, first):
        raise InputError(
            f"these levels begin at {first:.4g}, as a flow's do, but this card is for another kind of network: take "
            "a card of a flow, or say flow=False"
        )
    return (card.table if of_flow else _divided(card.table, max(first, _NEARLY_PURE))), of_flow


def _table(
    levels: Array,
    flow: bool | None,
    shape: tuple[int, ...],
    guidance: float | None,
    solver: str,
    card: Card | str | Path | None,
    strict: bool,
    options: Mapping[str, Any],
) -> SolverTable:
    """The card's table, or the classical solver's on ``levels`` if there is no card or the card does not apply.

    Raises:
        CardError: ``strict``, and the card does not apply.
        InputError: the solver cannot use the levels or options, or the card is on another scale.
    """
    if card is None:
        return build(solver, levels, alphas=1 - levels if flow else None, **options)
    loaded = _loaded(card)
    table, flow = _on_scale(loaded, flow, levels)
    calls, first = len(levels) - 1, float(levels[0])
    scale = loaded.model.guidance
    other = None not in (scale, guidance) and scale != guidance
    if loaded.needs_guard:
        why = loaded.needs_guard
    elif calls not in (table.nfe, len(table.grid) - 1):
        why = f"this card is for network calls {table.nfe}, not {calls}"
    elif not same_start(float(table.sigmas[0]), first):
        start = f"noise level {table.sigmas[0]:.4g}" if loaded.table.alphas[0] else "pure noise"
        why = f"this card starts at {start}, not at {first:.4g}"
    elif loaded.model.shape is not None and loaded.model.shape != shape:
        why = f"this card is for states of shape {loaded.model.shape}, not {shape}"
    elif other and guidance != 1:
        why = f"this card was calibrated at guidance {scale:g}, not {guidance:g}"
    else:
        if other:  # the scale may be an input of the network, as Flux has it
            text = f"this card was calibrated at guidance {scale:g}, and cfg is 1 here: give the network that scale"
            warnings.warn(text, stacklevel=3)
        return table
    if strict:
        raise CardError(f"{why}; without strict, {solver} would run in its place")
    warnings.warn(f"{why}; {solver} runs in its place", stacklevel=3)
    return build(solver, levels, alphas=1 - levels if flow else None, **options)
