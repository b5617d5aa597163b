"""The door to calibration: a table goes in, a better table of the same cost comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from longstride.calibration.acceptance.clean_runs import CLEAN_RUNS, clean_runs
from longstride.calibration.acceptance.guarding import Guarding, Verdict, guarded
from longstride.calibration.converged import given, solved
from longstride.calibration.endpoint.search import check_starts
from longstride.calibration.method import Method, Settings, configured, described, probed
from longstride.calibration.methods import DEFAULT, method_of
from longstride.calibration.reference.solve import Reference
from longstride.calibration.samples import Samples
from longstride.card import Card, ModelInfo
from longstride.errors import InputError
from longstride.journal import digest, table_digest
from longstride.network import as_network
from longstride.reports import EndReport, Report, RowReport, Search
from longstride.sampler import DenoiserLike
from longstride.table import SolverTable

__all__ = ["Calibration", "Progress", "calibrate"]

#: Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`calibrate`.

    Attributes:
        table: The table to use: the calibrated table, or its base if the gate kept the base.
        card: The table with everything that is needed to judge and reuse it; ``card.save(path)``.
        rows: One report per row that was fitted by itself.
        end: Errors of whole trajectories on held-out noise, and the verdict of the gate.
        fit_calls: Network calls per sample and step that the fit spent; a guided pair counts as two.
        calls: All network calls of this calibration, in samples, on all processes, before and after restarts. The check
            at the end is included, and the reference solution if it was solved here.
        search: Course of a ``gauss_newton`` calibration; None for other methods.
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
    method: str | Method = DEFAULT,
    starts: Mapping[str, SolverTable] | None = None,
    held_out: int | None = None,
    reference: Reference | None = None,
    reference_steps: int = 64,
    sigma_floor: float | None = None,
    batch_size: int | None = None,
    monitor: int = CLEAN_RUNS,
    model: ModelInfo | None = None,
    seed: int | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Calibration:
    """Fit the coefficients of ``table`` to a network; held-out samples accept them, or keep the base.

    The result depends on ``noise`` alone, up to the network's own rounding in batches of another size. Under
    ``torchrun`` or ``accelerate launch``, once ``torch.distributed`` is initialised, every process calls this with the
    same arguments. The processes share the work, and all of them return the same result.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: ``table.sigmas[0]`` times standard normal noise, shape ``(B, *)``, B at least 2.
        table: The base solver on the levels to be calibrated. For ``"gauss_newton"`` it is one of many starts, and
            gives their number of calls and their two ends. The base is then the best classical table.
        method: ``"gauss_newton"``, ``"global"``, ``"iia"``, or a name in
            :data:`~longstride.calibration.rowwise.iia.PUBLISHED`: settings of ``iia`` that its paper names. Or a method
            of your own, see :class:`~longstride.calibration.method.Method`.
        starts: Further tables that ``"gauss_newton"`` may start from, by name, such as another model's.
        held_out: Number of samples, from the end of ``noise``, that are held out; default: half.
        reference: Reference solution from all noise, for any table between the same first and last level. Methods other
            than ``"gauss_newton"`` need the held-out samples alone. Default: it is solved here.
        reference_steps: Steps of the reference solution.
        sigma_floor: Least positive level that the network knows; no fine solution has a level between it and 0.
            Default: the least level of the table, or of the schedule if that is lower.
        batch_size: Most samples per network call; default: all at once. A step of ``"gauss_newton"`` holds the last
            states of a batch once per free number of the table.
        monitor: Number of clean runs of the table, whose statistics a :class:`~longstride.Monitor` compares with: the
            samples', and fresh ones if it is larger. Each costs the table's network calls. 0: the card has no monitor.
        model: The card's description of the model; default: unnamed.
        seed: Seed that made ``noise``, for the card.
        journal: Folder where finished units are kept. A calibration that was killed goes on from them, and ends in the
            same numbers. Delete the folder once the result is saved. Default: nothing is kept.
        progress: Called with (steps done, steps in all, what is being done).
        **settings: Settings in place of the method's defaults, of
            :class:`~longstride.calibration.endpoint.settings.GaussNewtonSettings`,
            :class:`~longstride.calibration.rowwise.whole_trajectory.GlobalSettings` or
            :class:`~longstride.calibration.rowwise.iia.IIASettings`.

    Raises:
        InputError: unknown method or setting, a base that the method is not for, fewer than two samples, other noise in
            the reference solution, or a journal of other work.
        NonFiniteError: the network returned NaN or infinity; the message names the call and the level.

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
    way, network, starts = method_of(method), as_network(denoiser), starts or {}
    chosen, about = configured(way, table.name, settings), model or ModelInfo(guidance=network.guidance)
    if starts and not way.many:
        raise InputError(f"method {way.name!r} starts from its table alone: drop starts, or use method {DEFAULT!r}")
    check_starts(starts, table)
    samples = Samples.of(
        network,
        noise,
        table,
        held_out=held_out,
        steps=reference_steps,
        sigma_floor=sigma_floor,
        unit=way.unit(chosen),
        batch_size=batch_size,
    )
    work = {**_work(way, chosen, table, starts, about, reference, seed), **probed(chosen, samples.noise[:1])}
    samples = samples.kept(None if journal is None else Path(journal), work)
    if reference is not None:
        samples = given(samples, reference, whole=way.whole)
    elif way.whole:
        samples = solved(samples, whole=True)
    say = progress or (lambda done, total, what: None)
    found = way.fit(samples, table, chosen, starts, lambda done, total: say(done, total + 1, "fitting"))
    fit_calls = samples.total_calls()
    samples = samples if samples.reference is not None else solved(samples, whole=False)
    final, end = way.judge(samples, found, chosen)
    asked: Callable[[], Guarding] | None = getattr(chosen, "guarding", None)
    verdict = Verdict(final, end, None, 0)
    if asked is not None:
        verdict = guarded(samples, found.base, final if end.accepted else found.table, end, asked())
    final, end = verdict.table, verdict.end
    normal, clean = clean_runs(samples, final, monitor)
    say(1, 1, "checking")
    rows = tuple(replace(row, accepted=final.rows[row.row - 1] != table.rows[row.row - 1]) for row in found.rows)
    said = {**described(chosen), "samples": len(samples), "held_out": samples.held_out, "seed": seed}
    report = Report(rows, end, samples.total_calls() + verdict.calls + clean, found.search)
    card = Card.of(final, found.base, way.name, said, about, network.schedule, report, verdict.guard, normal)
    per_step = fit_calls / (len(samples) * (len(table.grid) - 1))
    return Calibration(final, card, rows, end, per_step, report.calls, found.search)


def _work(
    way: Method,
    chosen: Settings,
    table: SolverTable,
    starts: Mapping[str, SolverTable],
    model: ModelInfo,
    reference: Reference | None,
    seed: int | None,
) -> dict[str, Any]:
    """Plain data that tell this calibration from others: the journal of another calibration is refused."""
    return {
        "model": model.fingerprint,
        "guidance": model.guidance,
        "method": way.name,
        "settings": described(chosen),
        "seed": seed,
        "table": table_digest(table),
        "starts": {key: table_digest(start) for key, start in starts.items()},
        "reference": None if reference is None else digest(reference.samples),
    }
