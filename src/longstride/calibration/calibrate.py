"""The door to calibration: a table goes in, a better table of the same cost comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.calibration.batches import Batch, Batches
from longstride.calibration.gate import EndReport, gate
from longstride.calibration.iia import PUBLISHED, IIASettings, RowReport, calibrate_iia
from longstride.calibration.normal_equations import Array, double
from longstride.calibration.reference import Reference, least_level, solve_reference, start_of
from longstride.card import Card, ModelInfo
from longstride.errors import InputError, unknown
from longstride.journal import Journal, digest, table_digest
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["METHODS", "Calibration", "calibrate", "shared_reference"]

#: ``iia`` takes any base and any settings; the others are what the paper names.
METHODS = ("iia", *PUBLISHED)

#: Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`calibrate`.

    Attributes:
        table: The sampler to use: the calibrated one, or its base where the gate kept that.
        card: The same with everything that is needed to judge and reuse it; ``card.save(path)``.
        rows: One report per fitted row.
        end: Whole trajectories on held-out noise.
        fit_calls: Network calls per sample and step that the fit spent; a guided pair counts as two.
        calls: All network calls of this calibration, in samples: the fit, the check at the end, and the reference
            unless it was passed in; those of all processes, and those before a restart.
    """

    table: SolverTable
    card: Card
    rows: tuple[RowReport, ...]
    end: EndReport
    fit_calls: float
    calls: int


def calibrate(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    method: str = "iia",
    held_out: int | None = None,
    reference: Reference | None = None,
    reference_steps: int = 64,
    sigma_floor: float | None = None,
    batch_size: int | None = None,
    model: ModelInfo | None = None,
    seed: int | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Calibration:
    """Fit the coefficients of ``table`` to a network, and accept them only where held-out noise agrees.

    The result depends on ``noise`` and ``batch_size`` alone. Under ``torchrun`` or ``accelerate launch``, once
    ``torch.distributed`` is initialised, every process calls this with the same arguments; they share the batches, and
    all of them return the same result, which is also that of a single process.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: ``table.sigmas[0]`` times standard normal noise, shape ``(B, *)``, B at least 2.
        table: The base solver on the levels to be calibrated.
        method: ``"iia"``, or one of the forms that the paper names, which are settings of it for some bases:
            :data:`~longstride.calibration.iia.PUBLISHED`.
        held_out: How many samples, from the end of the batch, are kept from the fit; default: half.
        reference: Converged solution from the held-out noise, for the check at the end; one serves all step counts
            that share their first and last level. Default: it is solved here.
        reference_steps: Steps of that solution.
        sigma_floor: Least positive level that the network knows, below which no fine solution looks; default: the
            schedule's, or the table's own where a plain callable has none.
        batch_size: Most samples per network call; default: all at once.
        model: What the card says of the model; default: unnamed.
        seed: Seed that made ``noise``, for the card.
        journal: Folder where finished batches are kept, so that a calibration that was killed goes on and ends in the
            same numbers. Delete it once the result is saved. Default: nothing is kept.
        progress: Called after every row.
        **settings: Of :class:`~longstride.calibration.iia.IIASettings`, in place of the method's own.

    Raises:
        InputError: unknown method or setting, a base that the method is not for, fewer than two samples, a reference
            from other noise, or a journal of other work.
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
    chosen = _settings(method, table, settings)
    # Rounding of the states in half precision would be fitted as if it were error of the solver.
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    held = len(noise) // 2 if held_out is None else held_out
    about = model or ModelInfo(guidance=getattr(denoiser, "guidance", None))
    said = {**asdict(chosen), "samples": len(noise), "held_out": held, "seed": seed}
    work = {"model": about.fingerprint, "guidance": about.guidance, "settings": said, "batch_size": batch_size}
    work |= {"method": method, "table": table_digest(table), "noise": digest(noise)}
    floor = least_level(denoiser, table) if sigma_floor is None else sigma_floor
    work |= {"sigma_floor": floor, "conditions": digest(getattr(denoiser, "condition", None))}
    work |= {"reference": reference_steps if reference is None else digest(reference.samples)}
    kept = Journal(None if journal is None else Path(journal), work)
    batches = Batches(denoiser, noise, held, batch_size, kept)
    batches.check_network(table)
    say = progress or (lambda done, total, what: None)
    calibrated, rows = calibrate_iia(
        batches,
        table,
        chosen,
        method if method in PUBLISHED and len(PUBLISHED[method].bases) == 1 else f"iia_{table.name}",
        floor=floor,
        progress=lambda done, total: say(done, total + 1, "fitting"),
    )
    fit_calls = batches.total_calls()
    if reference is None:
        reference = shared_reference(batches, table, steps=reference_steps, floor=floor)
    elif reference.start and reference.start != start_of(noise[batches.fitted :], table):
        raise InputError(
            f"the reference does not start from the {held} held-out samples at sigma {table.sigmas[0]:g} and end at "
            f"{table.sigmas[-1]:g}: solve it from the same noise, between the same levels"
        )
    elif len(reference.samples) != held:
        raise InputError(f"the reference holds {len(reference.samples)} samples, but {held} are held out")
    final, end = gate(batches, table, calibrated, reference)
    say(table.nfe + 1, table.nfe + 1, "checking")
    rows = [replace(row, accepted=final.rows[row.row - 1] != table.rows[row.row - 1]) for row in rows]
    card = Card.of(
        final,
        base=table,
        method=method,
        settings=said,
        model=about,
        denoiser=denoiser,
        rows=rows,
        end=end,
    )
    per_step = fit_calls / (len(noise) * (len(table.grid) - 1))
    return Calibration(final, card, tuple(rows), end, per_step, batches.total_calls())


def _settings(method: str, table: SolverTable, settings: dict[str, Any]) -> IIASettings:
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    start = IIASettings()
    if method in PUBLISHED:
        if table.name not in PUBLISHED[method].bases:
            bases = ", ".join(PUBLISHED[method].bases)
            raise InputError(f"{method} is for the bases {bases}, not for {table.name!r}; method 'iia' takes any")
        start = PUBLISHED[method].settings
    try:
        return replace(start, **settings)
    except TypeError as error:
        raise InputError(f"method {method!r}: {str(error).split('() ')[-1]}") from None


def shared_reference(batches: Batches, table: SolverTable, *, steps: int, floor: float) -> Reference:
    """Converged solution of the held-out samples, shared between the processes and journalled by batch.

    Args:
        batches: The samples.
        table: Gives the first and the last level.
        steps: Fine steps.
        floor: Least positive level.
    """
    samples: dict[int, Array] = {}
    facts: dict[int, Array] = {}
    first = next(n for n, part in enumerate(batches.slices) if part.start >= batches.fitted)
    for batch in batches.held_out:

        def solve(batch: Batch = batch) -> dict[str, Array]:
            found = solve_reference(
                batch.denoiser,
                batch.noise,
                table,
                steps=steps,
                check_samples=8 if batch.number == first else 0,
                sigma_floor=floor,
            )
            return {"samples": double(found.samples).cpu().numpy(), "facts": np.array([found.error, float(found.nfe)])}

        part = batches.part(f"reference/{batch.number}", solve)
        samples[batch.number], facts[batch.number] = part["samples"], part["facts"]
    noise = batches.noise[batches.fitted :]
    whole = np.concatenate(batches.gather(samples, held_out=True, shape=lambda b: (b, *noise.shape[1:])))
    error, nfe = batches.gather(facts, held_out=True, shape=lambda b: (2,))[0]
    return Reference(torch.from_numpy(whole).to(noise), float(error), int(nfe), start_of(noise, table))
