"""A sampler function for k-diffusion and what is built on it: ComfyUI, Forge, and everything with its call.

k-diffusion calls samplers as ``sampler(model, x, sigmas, extra_args, callback, disable)``. There ``model(x, sigma)``
returns the clean prediction, like a denoiser of this package, but takes the level as a tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longstride.card import Card, load_card, same_start
from longstride.errors import CardError, InputError
from longstride.sampler import sample
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["sample_longstride", "sigmas_of"]


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
    **options: Any,
) -> Tensor:
    """Draw samples as k-diffusion's own functions do.

    Args:
        model: ``model(x, sigma, **extra_args)`` returns the clean prediction, for ``sigma`` of shape ``(B,)``.
        x: ``sigmas[0]`` times standard normal noise, shape ``(B, *)``.
        sigmas: Levels ``sigma / alpha``, falling, shape ``(N + 1,)``; the last may be 0.
        extra_args: Keyword arguments of every call of ``model``.
        callback: Called after every call of ``model`` with a dictionary of ``x``, ``i``, ``sigma``, ``sigma_hat`` and
            ``denoised``.
        disable: Whether to draw no progress bar.
        solver: Name of the classical solver. Beside a card it runs if the card does not apply.
        card: A calibrated sampler or its path; its levels replace ``sigmas``, see :func:`sigmas_of`.
        strict: Whether a card that does not apply is an error. Otherwise there is one warning.
        **options: Options of the classical solver, see :func:`longstride.build`.

    Returns:
        The samples, in the shape and dtype of ``x``.

    Raises:
        CardError: the card cannot be read; or ``strict``, and it is for another number of calls or first level.
        InputError: unknown solver or options, levels that do not fall, or a card on another scale than k-diffusion's.
        NonFiniteError: the result holds NaN or infinity.

    References:
        https://github.com/crowsonkb/k-diffusion
    """
    from tqdm.auto import tqdm

    table = _table(sigmas.detach().double().cpu().numpy(), solver, card, strict, options)
    arguments = dict(extra_args or {})
    ones = x.new_ones([x.shape[0]])
    start = x * float(table.sigmas[0] / float(sigmas[0]))
    with tqdm(total=table.nfe, disable=disable) as bar:

        def denoiser(state: Tensor, sigma: float) -> Tensor:
            prediction = model(state, sigma * ones, **arguments)
            bar.update()
            return prediction

        def told(i: int, sigma: float, state: Tensor, prediction: Tensor) -> None:
            if callback is not None:
                level = state.new_tensor(sigma)
                callback({"x": state, "i": i, "sigma": level, "sigma_hat": level, "denoised": prediction})

        return sample(denoiser, start, table, callback=told)


def sigmas_of(card: Card | str | Path) -> Tensor:
    """Levels of a card as k-diffusion's schedulers give them.

    Args:
        card: A card or its path.

    Returns:
        The level of every call and the last level, float32, shape ``(K + 1,)``.

    Raises:
        CardError: the card cannot be read.
        InputError: the card's states are on another scale than k-diffusion's (alpha = 1).
    """
    table = _loaded(card).table
    _check_scale(table)
    return torch.from_numpy(table.sigmas.copy()).float()


def _loaded(card: Card | str | Path) -> Card:
    return card if isinstance(card, Card) else load_card(card)


def _check_scale(table: SolverTable) -> None:
    """Make sure that a table's states are on k-diffusion's scale.

    Raises:
        InputError: they are not.
    """
    if not (table.alphas == 1).all():
        raise InputError(
            "this card is for a flow or for a network with zero terminal SNR, whose states k-diffusion does not "
            "divide by alpha: use LongstrideScheduler, or longstride.sample"
        )


def _table(
    sigmas: Any, solver: str, card: Card | str | Path | None, strict: bool, options: Mapping[str, Any]
) -> SolverTable:
    """The card's table, or the classical solver's on ``sigmas`` if there is no card or the card does not apply.

    Raises:
        CardError: ``strict``, and the card does not apply.
        InputError: the solver cannot use the levels or options, or the card is on another scale.
    """
    if card is None:
        return build(solver, sigmas, **options)
    table = _loaded(card).table
    _check_scale(table)
    calls, first = len(sigmas) - 1, float(sigmas[0])
    if table.nfe != calls:
        why = f"this card is for network calls {table.nfe}, not {calls}"
    elif not same_start(float(table.sigmas[0]), first):
        why = f"this card starts at noise level {table.sigmas[0]:.4g}, not {first:.4g}"
    else:
        return table
    if strict:
        raise CardError(f"{why}; without strict, {solver} would run in its place")
    warnings.warn(f"{why}; {solver} runs in its place", stacklevel=3)
    return build(solver, sigmas, **options)
