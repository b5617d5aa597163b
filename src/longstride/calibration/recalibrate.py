"""Recalibration: from a card and a handful of fresh samples to a better card, or to the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from longstride.calibration.calibrate import Calibration, Progress, calibrate
from longstride.calibration.endpoint.recalibrating import CURRENT, Comparison, Recalibrating
from longstride.calibration.reference.solve import Reference
from longstride.card import Card, ModelInfo
from longstride.errors import InputError
from longstride.network import as_network
from longstride.reports import Errors
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["Recalibration", "Verdict", "recalibrate", "settled", "starts_of"]

#: ``improved``: a new table is surely better. ``kept``: the card stays. ``base``: the base is surely better.
Verdict = Literal["improved", "kept", "base"]


@dataclass(frozen=True)
class Recalibration:
    """Result of :func:`recalibrate`.

    Attributes:
        verdict: ``"improved"``; ``"kept"``; or ``"base"``, if the base is surely better than the card and no better
            table was found.
        card: The card to use: a new one, or the one that was given.
        reason: Why.
        errors: Errors on the held-out samples of the table in use (``"card"``), the fitted table (``"fitted"``) and
            the base (``"base"``).
        samples: Number of held-out samples.
        calls: Network calls, in samples.
    """

    verdict: Verdict
    card: Card
    reason: str
    errors: Mapping[str, Errors]
    samples: int
    calls: int


def recalibrate(
    card: Card,
    denoiser: DenoiserLike,
    noise: Tensor,
    *,
    held_out: int | None = None,
    reference: Reference | None = None,
    reference_steps: int = 64,
    sigma_floor: float | None = None,
    batch_size: int | None = None,
    monitor: int | None = None,
    model: ModelInfo | None = None,
    seed: int | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Recalibration:
    """Improve a card with a few fresh samples, or keep it.

    The card's table is the start, and the ridge pulls towards it. On held-out samples the new table must surely be
    better than the card's, and than the base; otherwise the card stays. See
    :func:`~longstride.calibration.acceptance.gate.judge` for what "surely" means, and for the fewest samples.

    Args:
        card: The card in use.
        denoiser: The network, bound to the conditions of all samples; its weights may be others than the card's.
        noise: The first level of the card's table times standard normal noise, shape ``(B, *)``. Such as 16 samples
            to fit and 16 that decide.
        held_out: Number of samples, from the end of ``noise``, that are held out; default: half.
        reference: As in :func:`~longstride.calibrate`.
        reference_steps: As in :func:`~longstride.calibrate`.
        sigma_floor: As in :func:`~longstride.calibrate`.
        batch_size: As in :func:`~longstride.calibrate`.
        monitor: As in :func:`~longstride.calibrate`; default: the number of clean runs of ``card``, or 0.
        model: The new card's description of the model; default: the card's, without the digest of its weights.
        seed: Seed that made ``noise``, for the new card.
        journal: As in :func:`~longstride.calibrate`.
        progress: As in :func:`~longstride.calibrate`.
        **settings: Settings in place of the defaults: those of
            :class:`~longstride.calibration.endpoint.settings.GaussNewtonSettings`, with three ``iterations`` and a
            ``ridge`` of 0.03. ``guard_share`` is that of the card's guard, or 0.

    Returns:
        The verdict, and the card to use.

    Raises:
        InputError: another guidance scale than the card's, or what :func:`~longstride.calibrate` refuses.
        NonFiniteError: the network returned NaN or infinity.
    """
    about = model or card.model.model_copy(update={"fingerprint": None, "networks": {}, "adapters": {}})
    scale = about.guidance if model is not None else as_network(denoiser).guidance
    if (model is not None or scale is not None) and scale != card.model.guidance:
        raise InputError(
            f"the card is for guidance {card.model.guidance}, not {scale}: recalibrate at its scale, or calibrate anew"
        )
    way = Recalibrating()
    result = calibrate(
        denoiser,
        noise,
        card.base_table,
        method=way,
        starts=starts_of(card),
        held_out=held_out,
        reference=reference,
        reference_steps=reference_steps,
        sigma_floor=sigma_floor,
        batch_size=batch_size,
        monitor=clean_runs_of(card) if monitor is None else monitor,
        model=about,
        seed=seed,
        journal=journal,
        progress=progress,
        **{**usual_settings(card), **settings},
    )
    assert way.comparison is not None
    return settled(card, way.comparison, result)


def starts_of(card: Card) -> dict[str, SolverTable]:
    """The start of a recalibration of ``card``."""
    return {CURRENT: card.table}


def usual_settings(card: Card) -> dict[str, Any]:
    """Settings that a recalibration takes over from ``card``: the calls that its guard may add."""
    return {"guard_share": 0.0 if card.guard is None else card.settings.get("guard_share", card.guard.share)}


def clean_runs_of(card: Card) -> int:
    """Number of clean runs that ``card`` was given."""
    return 0 if card.normal is None else card.normal.samples


def settled(card: Card, comparison: Comparison, result: Calibration) -> Recalibration:
    """The verdict on a card, from the comparisons with its table and from the calibration."""
    fitted, base = comparison.fitted, comparison.base
    errors = {"card": fitted.base, "fitted": fitted.calibrated, "base": base.calibrated}
    verdict: Verdict = "kept"
    if fitted.accepted and result.end.accepted:
        verdict, reason = "improved", "the new table is surely better than the card and the base"
    elif base.accepted and not result.end.accepted:
        verdict, reason = "base", "the base is surely better than the card, and no better table was found"
    elif fitted.accepted:
        reason = f"better than the card, but of the base: {result.end.reason}"
    else:
        reason = fitted.reason
    return Recalibration(
        verdict, card if verdict == "kept" else result.card, reason, errors, fitted.samples, result.calls
    )
