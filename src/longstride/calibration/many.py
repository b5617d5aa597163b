"""Many settings at once: a few are calibrated, the others are filled between them, and all go into one book."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from longstride.book import CardBook, Entry
from longstride.calibration.batches import Batches
from longstride.calibration.calibrate import Progress, calibrate
from longstride.calibration.filled import finish_filled
from longstride.calibration.filling import fill_nfe
from longstride.calibration.reference import Reference, least_level
from longstride.calibration.settings import FITTED, HELD_OUT, GaussNewtonSettings
from longstride.calibration.shared_reference import shared_reference
from longstride.card import Card, ModelInfo
from longstride.errors import InputError
from longstride.grid import Final, grid, spacing_of
from longstride.journal import Journal, digest
from longstride.sampler import DenoiserLike
from longstride.schedule import Schedule
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["Guided", "anchors_of", "calibrate_book", "scales_between"]

#: Numbers of calls of neighbouring anchors differ by about this factor at most.
_RATIO = 1.5


class Guided(Protocol):
    """What a book is made for: a :class:`~longstride.Model`, or anything with these."""

    @property
    def schedule(self) -> Schedule:
        """The network's schedule."""

    def noise(self, seeds: range, sigma: float) -> Tensor:
        """Noise at level ``sigma``, shape ``(len(seeds), *)``."""

    def denoiser(self, seeds: range, guidance: float | None = None) -> DenoiserLike:
        """The network, bound to the conditions of all seeds."""

    def info(self, guidance: float | None = None) -> ModelInfo:
        """What a card says of it."""


def anchors_of(nfes: Sequence[int]) -> list[int]:
    """Numbers of calls to calibrate: both ends, and as few between as keep neighbours within a factor of about 1.5.

    Args:
        nfes: All numbers of calls.

    Examples:
        >>> anchors_of(range(4, 21))
        [4, 6, 9, 13, 20]
    """
    low, high = min(nfes), max(nfes)
    parts = max(1, math.ceil(math.log(high / low) / math.log(_RATIO) - 1e-9))
    wanted = [low * (high / low) ** (n / parts) for n in range(parts + 1)]
    return sorted({min(nfes, key=lambda nfe: abs(math.log(nfe / one))) for one in wanted})


def scales_between(low: float, high: float) -> list[float]:
    """Guidance scales to calibrate in a range: both ends and their geometric mean, to three digits.

    Examples:
        >>> scales_between(1, 8)
        [1, 2.83, 8]
    """
    middle = float(f"{math.sqrt(low * high):.3g}") if low > 0 else float(f"{math.expm1(math.log1p(high) / 2):.3g}")
    return [low, middle, high] if low < middle < high else [low, high]


@dataclass(frozen=True)
class _Samples:
    """Everything that settings of one guidance scale share."""

    denoiser: DenoiserLike
    noise: Tensor
    info: ModelInfo
    reference: Reference
    floor: float
    folder: Path | None

    def inside(self, name: str) -> Path | None:
        """Folder of a part of the work."""
        return None if self.folder is None else self.folder / name


def calibrate_book(
    model: Guided,
    nfes: Sequence[int],
    guidances: Sequence[float | None] = (None,),
    *,
    anchors: Sequence[int] | None = None,
    seeds: range = range(FITTED + HELD_OUT),
    held_out: int = HELD_OUT,
    refine: int = 2,
    refine_samples: int = 64,
    spacing: str = "auto",
    final: Final = "sigma_min",
    reference_steps: int = 64,
    batch_size: int | None = None,
    seed: int | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> CardBook:
    """Calibrate a model for many numbers of calls and guidance scales.

    At every guidance scale the anchors are calibrated and the other numbers of calls are filled between them
    (:mod:`~longstride.calibration.filling`), refined by a few steps on few samples, and judged on held-out noise. Each
    entry holds the best classical solver where the gate keeps that. One converged reference per scale serves all.

    Under ``torchrun`` every process calls this with the same arguments, as with :func:`~longstride.calibrate`.

    Args:
        model: The model.
        nfes: Numbers of network calls, each an entry; a guided pair counts as one.
        guidances: Guidance scales, each an entry; between them the book fills on the fly. None: without guidance.
        anchors: Numbers of calls that are calibrated, both ends among them; default: :func:`anchors_of`.
        seeds: Of all samples.
        held_out: How many of these, from the end, are kept from every fit.
        refine: Most steps of refinement of a filled entry; 0: none.
        refine_samples: Samples that these see.
        spacing: Grid of the first table, which gives the two ends and is one of many starts.
        final: Last level.
        reference_steps: Steps of the converged solution.
        batch_size: Most samples per network call; default: all at once.
        seed: That made ``seeds``, for the cards.
        journal: Folder where finished batches are kept, so that what was killed goes on. Delete it once the book is
            saved. Default: nothing is kept.
        progress: Called with (steps done, steps in all, what is being done).
        **settings: Of :class:`~longstride.calibration.settings.GaussNewtonSettings`.

    Raises:
        InputError: no settings, anchors that are not among the numbers of calls or leave out an end, an unknown
            setting, or whatever :func:`~longstride.calibrate` refuses.
    """
    nfes, scales = sorted(set(nfes)), sorted(set(guidances), key=lambda g: -math.inf if g is None else g)
    if not nfes or not scales or nfes[0] < 1:
        raise InputError(f"a book needs numbers of calls, 1 or more, and guidance scales, got {nfes} and {scales}")
    if None in scales and len(scales) > 1:
        raise InputError("a book is either guided or not: drop the guidance None, or all scales")
    chosen = anchors_of(nfes) if anchors is None else sorted(set(anchors))
    if not set(chosen) <= set(nfes) or {nfes[0], nfes[-1]} - set(chosen):
        raise InputError(f"anchors must be among {nfes}, the first and the last included, got {chosen}")
    try:
        fit = GaussNewtonSettings(**settings)
    except TypeError as error:
        raise InputError(f"method 'gauss_newton': {str(error).split('() ')[-1]}") from None
    tables = {nfe: _table(model.schedule, nfe, spacing, final) for nfe in nfes}
    root = None if journal is None else Path(journal)
    about = {"model": model.info(None).fingerprint, "nfes": nfes, "guidances": scales, "anchors": chosen}
    work = {**about, "settings": settings, "refine": [refine, refine_samples], "final": final, "seeds": str(seeds)}
    Journal(root, work)
    say = progress or (lambda done, total, what: None)
    count = _Count(say, len(scales), len(scales) * len(chosen), len(scales) * (len(nfes) - len(chosen)))
    entries: list[Entry] = []
    known: dict[int, SolverTable] = {}  # of the scale before, which is a good start
    for scale in scales:
        folder = None if root is None else root / ("plain" if scale is None else f"guidance-{scale:g}")
        samples = _samples(model, scale, seeds, held_out, tables[chosen[0]], folder, batch_size, reference_steps)
        count.step("converging")

        def calibrated(nfe: int, samples: _Samples = samples, known: Mapping[int, SolverTable] = known) -> Entry:
            result = calibrate(
                samples.denoiser,
                samples.noise,
                tables[nfe],
                starts={"neighbour": known[nfe]} if nfe in known else None,
                held_out=held_out,
                reference=samples.reference,
                sigma_floor=samples.floor,
                batch_size=batch_size,
                model=samples.info,
                seed=seed,
                journal=samples.inside(f"anchor-{nfe}"),
                progress=count.within,
                **settings,
            )
            return Entry(how="calibrated" if result.end.accepted else "base", card=result.card)

        found = {}
        for nfe in chosen:
            found[nfe] = calibrated(nfe)
            count.step("calibrating")
        fixed = {nfe: found[nfe].card.table for nfe in chosen}
        for nfe in (n for n in nfes if n not in fixed):
            try:
                filled = fill_nfe(fixed, nfe)
            except InputError:  # a base that was kept may have a form that nothing can be filled from
                found[nfe] = calibrated(nfe)
            else:
                sources = [max(n for n in fixed if n < nfe), min(n for n in fixed if n > nfe)]
                said = {"filled_from": sources, "refine": refine, "refine_samples": refine_samples}
                said |= {"samples": len(seeds), "held_out": held_out, "seed": seed}
                found[nfe] = _filled_entry(samples, tables[nfe], filled, fit, said, batch_size)
            count.step("filling")
        entries += [found[nfe] for nfe in nfes]
        known = {nfe: entry.card.table for nfe, entry in found.items() if entry.how != "base"}
    return CardBook.of(entries, model.schedule)


def _table(schedule: Schedule, nfe: int, spacing: str, final: Final) -> SolverTable:
    levels = grid(spacing_of(spacing, schedule), nfe, schedule=schedule, final=final)
    return build("ddim", levels, schedule=schedule)


def _samples(
    model: Guided,
    scale: float | None,
    seeds: range,
    held_out: int,
    table: SolverTable,
    folder: Path | None,
    batch_size: int | None,
    steps: int,
) -> _Samples:
    """Noise, network and converged reference of one guidance scale."""
    denoiser, noise = model.denoiser(seeds, scale), model.noise(seeds, float(table.sigmas[0]))
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    info, floor = model.info(scale), least_level(denoiser, table)
    work = {"model": info.fingerprint, "guidance": scale, "noise": digest(noise), "steps": steps, "size": batch_size}
    kept = Journal(None if folder is None else folder / "reference", {**work, "held_out": held_out})
    batches = Batches(denoiser, noise, held_out, batch_size, kept)
    batches.check_network(table)
    reference = shared_reference(batches, table, steps=steps, floor=floor, fitted=True)
    return _Samples(denoiser, noise, info, reference, floor, folder)


def _filled_entry(
    samples: _Samples,
    table: SolverTable,
    filled: SolverTable,
    settings: GaussNewtonSettings,
    said: Mapping[str, Any],
    batch_size: int | None,
) -> Entry:
    folder = samples.inside(f"filled-{table.nfe}")
    kept = Journal(folder, {"said": dict(said), "settings": asdict(settings), "noise": digest(samples.noise)})
    batches = Batches(samples.denoiser, samples.noise, said["held_out"], batch_size, kept)
    batches.check_network(table)
    done = finish_filled(
        batches,
        table,
        filled,
        settings,
        reference=samples.reference,
        floor=samples.floor,
        refine=said["refine"],
        refine_samples=said["refine_samples"],
        batch_size=batch_size,
    )
    card = Card.of(
        done.table,
        base=done.base,
        method="gauss_newton",
        settings={**asdict(settings), **said},
        model=samples.info,
        denoiser=samples.denoiser,
        rows=[],
        end=done.end,
        calls=batches.total_calls(),
        search=done.search,
    )
    return Entry(how=done.how, card=card)


class _Count:
    """Steps done of each kind of work; a calibration counts a hundred, since it is long."""

    def __init__(self, say: Progress, converging: int, calibrating: int, filling: int) -> None:
        self.say, self.done = say, {"converging": 0, "calibrating": 0, "filling": 0}
        self.total = {"converging": converging, "calibrating": 100 * calibrating, "filling": filling}

    def step(self, what: str) -> None:
        """One more is done."""
        size = 100 if what == "calibrating" else 1
        self.done[what] = min(self.done[what] + size, self.total[what])
        self.say(self.done[what], self.total[what], what)

    def within(self, done: int, total: int, what: str) -> None:
        """So much of a calibration is done."""
        del what
        self.say(self.done["calibrating"] + 100 * done // (total + 1), self.total["calibrating"], "calibrating")
