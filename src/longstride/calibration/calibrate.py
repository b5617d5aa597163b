"""The door to calibration: a table goes in, a better table of the same cost comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longstride.calibration.gate import EndReport, gate
from longstride.calibration.iia import IIASettings, RowReport, calibrate_iia
from longstride.calibration.reference import Reference, select, solve_reference
from longstride.card import Card, ModelInfo
from longstride.denoiser import Denoiser
from longstride.errors import InputError, unknown
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["METHODS", "Calibration", "calibrate"]

METHODS = ("iia",)

#: Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`calibrate`.

    Attributes:
        table: The sampler to use: the calibrated one, or its base where the gate kept that.
        card: The same with everything that is needed to judge and reuse it; ``card.save(path)``.
        rows: One report per step.
        end: Whole trajectories on held-out noise.
        fit_calls: Network calls per sample and step that the fit spent; a guided pair counts as two.
        calls: All network calls of this calibration, in samples: the fit, the check at the end, and the reference
            unless it was passed in.
    """

    table: SolverTable
    card: Card
    rows: tuple[RowReport, ...]
    end: EndReport
    fit_calls: float
    calls: int


class _Counted:
    """Counts network calls of any callable, in samples."""

    def __init__(self, denoiser: DenoiserLike) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        self.calls += len(x)
        return self.denoiser(x, sigma)


def calibrate(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    method: str = "iia",
    held_out: int | None = None,
    reference: Reference | None = None,
    reference_steps: int = 64,
    batch_size: int | None = None,
    model: ModelInfo | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Calibration:
    """Fit the coefficients of ``table`` to a network, and accept them only where held-out noise agrees.

    The result depends on ``noise`` alone: the same noise gives the same table.

    Args:
        denoiser: The network, bound to the conditions of the whole batch.
        noise: ``table.sigmas[0]`` times standard normal noise, shape ``(B, *)``, B at least 2.
        table: The base solver on the levels to be calibrated.
        method: ``"iia"``: :mod:`longstride.calibration.iia`.
        held_out: How many samples, from the end of the batch, are kept from the fit; default: half.
        reference: Converged solution from the held-out noise, for the check at the end; one serves all step counts
            that share their first and last level. Default: it is solved here.
        reference_steps: Steps of that solution.
        batch_size: Most samples per network call; default: all at once.
        model: What the card says of the model; default: unnamed.
        seed: Seed that made ``noise``, for the card.
        progress: Called after every step.
        **settings: Of the method; for IIA ``r``, ``substeps``, ``fine`` and ``ridge``.

    Raises:
        InputError: unknown method, base or setting; fewer than two samples.
        NonFiniteError: the network returned NaN or infinity; names the call and the level.

    Examples:
        >>> import torch, longstride as ls
        >>> def denoiser(x, sigma):  # exact for data of variance 1/4
        ...     return x / (1 + 4 * sigma**2)
        >>> table = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.01, sigma_max=10.0))
        >>> noise = 10 * torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        >>> result = ls.calibrate(denoiser, noise, table)
        >>> result.end.calibrated.rmse < 0.2 * result.end.base.rmse
        True
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    held = len(noise) // 2 if held_out is None else held_out
    if not 1 <= held < len(noise):
        raise InputError(f"of {len(noise)} samples {held} cannot be held out: keep at least one on either side")
    try:
        chosen = IIASettings(**settings)
    except TypeError as error:
        raise InputError(f"method {method!r}: {str(error).split('() ')[-1]}") from None
    # Rounding of the states in half precision would be fitted as if it were error of the solver.
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    say = progress or (lambda done, total, what: None)
    counted = _Counted(denoiser)
    network: DenoiserLike = denoiser if isinstance(denoiser, Denoiser) else counted

    def calls() -> int:
        return denoiser.calls if isinstance(denoiser, Denoiser) else counted.calls

    before = calls()
    calibrated, rows = calibrate_iia(
        network,
        noise,
        table,
        held,
        chosen,
        batch_size=batch_size,
        progress=lambda done, total: say(done, total + 1, "fitting"),
    )
    fit_calls = calls() - before
    tail = slice(len(noise) - held, len(noise))
    few = select(network, tail)
    if reference is None:
        reference = solve_reference(few, noise[tail], table, steps=reference_steps, batch_size=batch_size)
    elif len(reference.samples) != held:
        raise InputError(f"the reference holds {len(reference.samples)} samples, but {held} are held out")
    final, end = gate(few, noise[tail], table, calibrated, reference, batch_size=batch_size)
    say(len(rows) + 1, len(rows) + 1, "checking")
    rows = [replace(row, accepted=final.rows[row.row - 1] != table.rows[row.row - 1]) for row in rows]
    per_step = fit_calls / (len(noise) * (len(table.grid) - 1))
    card = Card.of(
        final,
        base=table,
        method=method,
        settings={**asdict(chosen), "samples": len(noise), "held_out": held, "seed": seed},
        model=model or ModelInfo(guidance=getattr(denoiser, "guidance", None)),
        denoiser=denoiser,
        rows=rows,
        end=end,
    )
    return Calibration(final, card, tuple(rows), end, per_step, calls() - before)
