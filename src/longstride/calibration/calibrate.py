"""The door to calibration: a table goes in, a better table of the same cost comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longstride.calibration.batches import Batches
from longstride.calibration.gate import EndReport, gate, judge
from longstride.calibration.iia import PUBLISHED, IIASettings, calibrate_iia
from longstride.calibration.reference import Reference, least_level
from longstride.calibration.rows import RowReport
from longstride.calibration.search import Search, calibrate_gauss_newton, check_starts
from longstride.calibration.settings import GaussNewtonSettings
from longstride.calibration.shared_reference import check_reference, shared_reference
from longstride.calibration.trajectory import GlobalSettings, calibrate_global
from longstride.card import Card, ModelInfo
from longstride.errors import InputError, unknown
from longstride.journal import Journal, digest, table_digest
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["METHODS", "Calibration", "calibrate", "default_settings"]

#: ``gauss_newton`` fits everything together, ``global`` row by row to converged trajectories, ``iia`` row by row to
#: fine solutions of single steps; the others are settings of ``iia`` that its paper names.
METHODS = ("gauss_newton", "global", "iia", *PUBLISHED)

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
        search: How a ``gauss_newton`` calibration went; None for the others, which report rows.
    """

    table: SolverTable
    card: Card
    rows: tuple[RowReport, ...]
    end: EndReport
    fit_calls: float
    calls: int
    search: Search | None = None


def calibrate(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    method: str = "gauss_newton",
    starts: Mapping[str, SolverTable] | None = None,
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
        table: The base solver on the levels to be calibrated. For ``"gauss_newton"`` it is one of many starts, of which
            it gives the calls and the two ends; the base is then the best classical solver of all.
        method: ``"gauss_newton"``, ``"global"``, ``"iia"``, or one of the forms that the paper of IIA names, which are
            settings of it for some bases: :data:`~longstride.calibration.iia.PUBLISHED`.
        starts: Further tables that ``"gauss_newton"`` may start from, by name, such as another model's.
        held_out: How many samples, from the end of the batch, are kept from the fit; default: half.
        reference: Converged solution from all noise; one serves all step counts that share their first and last level.
            Other methods than ``"gauss_newton"`` need that of the held-out noise alone. Default: it is solved here.
        reference_steps: Steps of that solution.
        sigma_floor: Least positive level that the network knows, below which no fine solution looks; default: the
            schedule's, or the table's own where a plain callable has none.
        batch_size: Most samples per network call; default: all at once. In ``"gauss_newton"`` the Jacobian alone
            makes such calls, all others see half of ``scout_samples``.
        model: What the card says of the model; default: unnamed.
        seed: Seed that made ``noise``, for the card.
        journal: Folder where finished batches are kept, so that a calibration that was killed goes on and ends in the
            same numbers. Delete it once the result is saved. Default: nothing is kept.
        progress: Called after every row.
        **settings: Of :class:`~longstride.calibration.settings.GaussNewtonSettings`,
            :class:`~longstride.calibration.trajectory.GlobalSettings` or
            :class:`~longstride.calibration.iia.IIASettings`, in place of the method's own.

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
        >>> result = ls.calibrate(denoiser, noise, table, method="iia")
        >>> result.end.calibrated.rmse < 0.2 * result.end.base.rmse
        True
    """
    chosen = _settings(method, table, settings)
    if starts and not isinstance(chosen, GaussNewtonSettings):
        raise InputError(f"method {method!r} starts from its table alone: drop starts, or use method 'gauss_newton'")
    check_starts(starts or {}, table)
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
    work |= {"starts": {key: table_digest(start) for key, start in (starts or {}).items()}}
    kept = Journal(None if journal is None else Path(journal), work)
    # Short fits see a few samples, which two processes can share; runs for the Jacobian make their calls together.
    most, whole = len(noise) if batch_size is None else batch_size, isinstance(chosen, GaussNewtonSettings)
    size = min(most, -(-chosen.scout_samples // 2)) if isinstance(chosen, GaussNewtonSettings) else batch_size
    batches = Batches(denoiser, noise, held, size, kept)
    batches.check_network(table)
    say = progress or (lambda done, total, what: None)
    base, search = table, None
    rows: list[RowReport] = []
    if reference is not None:
        check_reference(reference, batches, table, whole)
    elif whole:
        reference = shared_reference(batches, table, steps=reference_steps, floor=floor, fitted=True)

    def fitting(done: int, total: int) -> None:
        say(done, total + 1, "fitting")

    if isinstance(chosen, GaussNewtonSettings):
        assert reference is not None
        calibrated, base, search = calibrate_gauss_newton(
            batches,
            table,
            chosen,
            method,
            reference=reference,
            floor=floor,
            batch_size=most,
            starts=starts,
            progress=fitting,
        )
    elif isinstance(chosen, GlobalSettings):
        name = f"global_{table.name}"
        calibrated, rows = calibrate_global(
            batches, table, chosen, name, steps=reference_steps, floor=floor, progress=fitting
        )
    else:
        name = method if method in PUBLISHED and len(PUBLISHED[method].bases) == 1 else f"iia_{table.name}"
        calibrated, rows = calibrate_iia(batches, table, chosen, name, floor=floor, progress=fitting)
    fit_calls = batches.total_calls()
    if reference is None:
        reference = shared_reference(batches, table, steps=reference_steps, floor=floor)
    if isinstance(chosen, GaussNewtonSettings):
        final, end = judge(batches, base, calibrated, reference, margin=chosen.margin, stability=chosen.stability)
    else:
        final, end = gate(batches, table, calibrated, reference)
    say(1, 1, "checking")
    calls = batches.total_calls()
    rows = [replace(row, accepted=final.rows[row.row - 1] != table.rows[row.row - 1]) for row in rows]
    card = Card.of(
        final,
        base=base,
        method=method,
        settings=said,
        model=about,
        denoiser=denoiser,
        rows=rows,
        end=end,
        calls=calls,
        search=search,
    )
    per_step = fit_calls / (len(noise) * (len(table.grid) - 1))
    return Calibration(final, card, tuple(rows), end, per_step, calls, search)


Settings = IIASettings | GlobalSettings | GaussNewtonSettings


def default_settings(method: str) -> Settings:
    """Settings that a method has if none are given.

    Raises:
        InputError: there is no such method.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "gauss_newton":
        return GaussNewtonSettings()
    if method == "global":
        return GlobalSettings()
    return PUBLISHED[method].settings if method in PUBLISHED else IIASettings()


def _settings(method: str, table: SolverTable, settings: dict[str, Any]) -> Settings:
    start = default_settings(method)
    if method in PUBLISHED and table.name not in PUBLISHED[method].bases:
        bases = ", ".join(PUBLISHED[method].bases)
        raise InputError(f"{method} is for the bases {bases}, not for {table.name!r}; method 'iia' takes any")
    try:
        return replace(start, **settings)
    except TypeError as error:
        raise InputError(f"method {method!r}: {str(error).split('() ')[-1]}") from None
