"""Many settings at once: a few are calibrated, the others are filled between them, and all go into one book."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from longstride.book import CardBook
from longstride.book_parts import Entry
from longstride.calibration.anchors import anchors_of
from longstride.calibration.calibrate import Progress, calibrate
from longstride.calibration.converged import solved
from longstride.calibration.endpoint.filled import finish_filled
from longstride.calibration.endpoint.settings import FITTED, HELD_OUT, GaussNewtonSettings
from longstride.calibration.method import configured, described, probed
from longstride.calibration.methods import DEFAULT, METHODS
from longstride.calibration.samples import Samples
from longstride.card import Card, ModelInfo
from longstride.errors import InputError
from longstride.grid import LastLevel, grid, spacing_of
from longstride.interpolate import fill_nfe
from longstride.journal import Journal
from longstride.reports import Report
from longstride.sampler import DenoiserLike
from longstride.schedule import Schedule
from longstride.solvers import build
from longstride.table import SolverTable

__all__ = ["Guided", "calibrate_book"]


class Guided(Protocol):
    """A model that a book is made for, such as :class:`~longstride.Model`."""

    @property
    def schedule(self) -> Schedule:
        """The network's schedule."""

    def noise(self, seeds: range, sigma: float) -> Tensor:
        """Noise at level ``sigma``, shape ``(len(seeds), *)``."""

    def denoiser(self, seeds: range, guidance: float | None = None) -> DenoiserLike:
        """The network, bound to the conditions of all seeds."""

    def info(self, guidance: float | None = None) -> ModelInfo:
        """Description of the model, for cards."""


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
    final: LastLevel = "sigma_min",
    reference_steps: int = 64,
    batch_size: int | None = None,
    seed: int | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> CardBook:
    """Calibrate a model for many numbers of calls and guidance scales.

    At every guidance scale the anchors are calibrated. The tables for other numbers of calls are filled between the
    anchors (:mod:`~longstride.interpolate`), and refined by a few steps on few samples. The gate judges every entry: it
    may keep the best classical solver. All entries of a scale share one reference solution.

    Cards of a book hold no clean runs: give a card to be monitored its own, :meth:`~longstride.Card.with_normal`.

    Under ``torchrun`` every process calls this with the same arguments, as with :func:`~longstride.calibrate`.

    Args:
        model: The model.
        nfes: Numbers of network calls, each an entry; a guided pair counts as one.
        guidances: Guidance scales, each an entry; the book fills tables between them on demand. None: without guidance.
        anchors: Numbers of calls that are calibrated, with both ends; default: as few that neighbours differ by a
            factor of about 1.5.
        seeds: Seeds of all samples.
        held_out: Number of seeds, from the end, whose samples are held out.
        refine: Most steps of refinement of a filled entry; 0: no refinement.
        refine_samples: Number of samples that these steps see.
        spacing: Name of the grid of the first tables, which give the two ends and are one of many starts.
        final: Last level.
        reference_steps: Steps of the reference solution.
        batch_size: Most samples per network call; default: all at once.
        seed: Seed that made ``seeds``, for the cards.
        journal: Folder where finished units are kept. A calibration that was killed goes on from them. Delete the
            folder once the book is saved. Default: nothing is kept.
        progress: Called with (steps done, steps in all, what is being done).
        **settings: Settings in place of the defaults of
            :class:`~longstride.calibration.endpoint.settings.GaussNewtonSettings`.

    Raises:
        InputError: no numbers of calls or scales, anchors outside of ``nfes`` or without an end, an unknown setting, or
            arguments that :func:`~longstride.calibrate` refuses.
    """
    nfes, scales, chosen = _asked(nfes, guidances, anchors)
    fit = configured(METHODS[DEFAULT], None, settings)
    tables = {nfe: _table(model.schedule, nfe, spacing, final) for nfe in nfes}
    root = None if journal is None else Path(journal)
    about = {"model": model.info(None).fingerprint, "nfes": nfes, "guidances": scales, "anchors": chosen}
    work = {**about, "settings": described(fit), "refine": [refine, refine_samples], "final": final}
    Journal(root, {**work, "seeds": str(seeds)})
    say = progress or (lambda done, total, what: None)
    count = _Count(say, len(scales), len(scales) * len(chosen), len(scales) * (len(nfes) - len(chosen)))
    entries: list[Entry] = []
    known: dict[int, SolverTable] = {}  # tables of the scale before, which are good starts
    for scale in scales:
        samples = Samples.of(
            model.denoiser(seeds, scale),
            model.noise(seeds, float(tables[chosen[0]].sigmas[0])),
            tables[chosen[0]],
            held_out=held_out,
            steps=reference_steps,
            unit=METHODS[DEFAULT].unit(fit),
            batch_size=batch_size,
        )
        place = None if root is None else root / ("plain" if scale is None else f"guidance-{scale:g}") / "reference"
        samples = samples.kept(place, {"model": about["model"], "guidance": scale})
        one = _Scale(solved(samples, whole=True), model.info(scale), tables, fit, seed, count)
        count.step("converging")
        found = one.entries(chosen, known, refine, refine_samples)
        entries += [found[nfe] for nfe in nfes]
        known = {nfe: entry.card.table for nfe, entry in found.items() if entry.how != "base"}
    return CardBook.of(entries, model.schedule)


def _asked(
    nfes: Sequence[int], guidances: Sequence[float | None], anchors: Sequence[int] | None
) -> tuple[list[int], list[float | None], list[int]]:
    """Numbers of calls, guidance scales and anchors, each once and rising.

    Raises:
        InputError: no numbers of calls or scales, scales with and without guidance, or anchors that do not fit.
    """
    nfes, scales = sorted(set(nfes)), sorted(set(guidances), key=lambda g: -math.inf if g is None else g)
    if not nfes or not scales or nfes[0] < 1:
        raise InputError(f"a book needs numbers of calls, 1 or more, and guidance scales, got {nfes} and {scales}")
    if None in scales and len(scales) > 1:
        raise InputError("a book is either guided or not: drop the guidance None, or all scales")
    chosen = anchors_of(nfes) if anchors is None else sorted(set(anchors))
    if not set(chosen) <= set(nfes) or {nfes[0], nfes[-1]} - set(chosen):
        raise InputError(f"anchors must be among {nfes}, the first and the last included, got {chosen}")
    return nfes, scales, chosen


def _table(schedule: Schedule, nfe: int, name: str, final: LastLevel) -> SolverTable:
    levels = grid(spacing_of(name, schedule), nfe, schedule=schedule, final=final)
    return build("ddim", levels, schedule=schedule)


@dataclass(frozen=True)
class _Scale:
    """Makes the entries of one guidance scale.

    Attributes:
        samples: Samples of the scale, with their reference solution.
        info: Description of the model, for cards.
        tables: Classical tables by number of calls.
        settings: Settings of the fits.
        seed: Seed of the samples, for cards.
        count: Counter of steps.
    """

    samples: Samples
    info: ModelInfo
    tables: Mapping[int, SolverTable]
    settings: GaussNewtonSettings
    seed: int | None
    count: _Count

    def entries(
        self, chosen: Sequence[int], known: Mapping[int, SolverTable], refine: int, refine_samples: int
    ) -> dict[int, Entry]:
        """Entries by number of calls.

        Args:
            chosen: Numbers of calls to calibrate.
            known: Tables of another scale, to start from.
            refine: Most steps of a filled entry.
            refine_samples: Number of samples that these steps see.
        """
        found = {}
        for nfe in chosen:
            found[nfe] = self._calibrated(nfe, known.get(nfe))
            self.count.step("calibrating")
        fixed = {nfe: found[nfe].card.table for nfe in chosen}
        for nfe in (n for n in self.tables if n not in fixed):
            try:
                filled = fill_nfe(fixed, nfe)
            except InputError:  # no table can be filled from some bases that were kept
                found[nfe] = self._calibrated(nfe, known.get(nfe))
            else:
                sources = [max(n for n in fixed if n < nfe), min(n for n in fixed if n > nfe)]
                said = {"filled_from": sources, "refine": refine, "refine_samples": refine_samples}
                found[nfe] = self._filled(nfe, filled, said)
            self.count.step("filling")
        return found

    def _folder(self, name: str) -> Path | None:
        """Folder of a part of the work, beside the folder of the reference solution."""
        folder = self.samples.journal.folder
        return None if folder is None else folder.with_name(name)

    def _calibrated(self, nfe: int, start: SolverTable | None) -> Entry:
        result = calibrate(
            self.samples.network,
            self.samples.noise,
            self.tables[nfe],
            starts=None if start is None else {"neighbour": start},
            held_out=self.samples.held_out,
            reference=self.samples.reference,
            sigma_floor=self.samples.floor,
            batch_size=self.samples.batch_size,
            monitor=0,
            model=self.info,
            seed=self.seed,
            journal=self._folder(f"anchor-{nfe}"),
            progress=self.count.within,
            **{one.name: getattr(self.settings, one.name) for one in fields(self.settings)},
        )
        return Entry(how="calibrated" if result.end.accepted else "base", card=result.card)

    def _filled(self, nfe: int, filled: SolverTable, said: Mapping[str, Any]) -> Entry:
        chosen = described(self.settings)
        about: dict[str, Any] = {"said": dict(said), "settings": chosen, "seed": self.seed}
        about |= probed(self.settings, self.samples.noise[:1])
        samples = replace(self.samples, ends=self.tables[nfe]).kept(self._folder(f"filled-{nfe}"), about)
        done = finish_filled(
            samples,
            self.tables[nfe],
            filled,
            self.settings,
            refine=said["refine"],
            refine_samples=said["refine_samples"],
        )
        sizes = {"samples": len(samples), "held_out": samples.held_out, "seed": self.seed}
        card = Card.of(
            done.table,
            base=done.base,
            method=DEFAULT,
            settings={**chosen, **said, **sizes},
            model=self.info,
            schedule=samples.network.schedule,
            report=Report((), done.end, samples.total_calls() + done.guard_calls, done.search),
            guard=done.guard,
        )
        return Entry(how=done.how, card=card)


class _Count:
    """Steps done of each kind of work; a calibration counts a hundred, since it is long."""

    def __init__(self, say: Progress, converging: int, calibrating: int, filling: int) -> None:
        self.say, self.done = say, {"converging": 0, "calibrating": 0, "filling": 0}
        self.total = {"converging": converging, "calibrating": 100 * calibrating, "filling": filling}

    def step(self, what: str) -> None:
        """Count a step."""
        size = 100 if what == "calibrating" else 1
        self.done[what] = min(self.done[what] + size, self.total[what])
        self.say(self.done[what], self.total[what], what)

    def within(self, done: int, total: int, what: str) -> None:
        """Tell the progress within a calibration."""
        del what
        self.say(self.done["calibrating"] + 100 * done // (total + 1), self.total["calibrating"], "calibrating")
