"""Calibrate a model and measure what came out, on noise that calibration did not see.

Every finished part is kept in a folder: a measurement that was killed goes on where it stopped, when the same is asked
for again.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longstride.arrays import Array
from longstride.book import CardBook, load_book
from longstride.calibration.many import calibrate_book
from longstride.card import Card
from longstride.card_parts import How
from longstride.errors import InputError, NonFiniteError
from longstride.evaluation.bootstrap import Interval, group_bootstrap
from longstride.evaluation.contestants import base_table, card_label, contestant
from longstride.evaluation.features import Extractor, load_features
from longstride.evaluation.frechet import FeatureSpace, Moments, frechet_distance
from longstride.evaluation.measure import Key, Measurer, Tally
from longstride.evaluation.runner import measure_source, space_of
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.source import NetworkSource
from longstride.journal import Journal
from longstride.processes import is_first, wait
from longstride.report.asked import Asked
from longstride.report.decision import decide
from longstride.report.outcome import (
    Calibrated,
    Cost,
    Counts,
    Figures,
    Machine,
    Outcome,
    Sampler,
    Subject,
    save_outcome,
)
from longstride.report.pictures import draw_pictures
from longstride.report.stopwatch import Stopwatch
from longstride.table import SolverTable
from longstride.version import __version__
from longstride.zoo.model import Model

__all__ = ["run_poc"]

Say = Callable[[str, int, int], None]
#: Replicates of a bootstrap of Fréchet distances.
_REPLICATES = 200


def run_poc(
    model: Model,
    asked: Asked,
    folder: Path,
    figures: Figures | None = None,
    *,
    say: Say = lambda what, done, total: None,
) -> Outcome:
    """Calibrate and measure.

    Args:
        model: The pretrained model.
        asked: What is asked for.
        folder: Folder for finished parts; made if missing. ``cards.json`` in it is the book of all calibrated tables,
            ``outcome.json`` the outcome.
        figures: What the user says of money.
        say: Called with (what is being done, done, total).

    Returns:
        The outcome. If the network returns NaN or infinity, the outcome says so, and holds no errors.

    Raises:
        InputError: the samples are no pictures, the model or a sampler cannot do what is asked for, or the folder is
            of another measurement.
    """
    study = asked.study
    model.check_pictures()
    model.denoiser(range(1), asked.guidance)
    one = contestant(asked.today)
    today = study.table(model.schedule, one, asked.today_nfe)
    extractor = load_features(study.features, model.device) if study.dimensions else None
    journal = Journal(folder, {"model": model.fingerprint, **asked.identity()})
    watch = Stopwatch(folder / "clock.json")
    outcome = _empty(model, asked, today.nfe, figures or Figures())
    _keep(outcome, asked, folder)
    try:
        book, cost = _calibrated(model, asked, journal, watch, say)
        outcome = replace(outcome, calibrated=tuple(_said(entry.card, entry.how) for entry in book.entries), cost=cost)
        _keep(outcome, asked, folder)
        tables = _tables(model, asked, today, book)
        source = NetworkSource(model, asked.guidance, study.reference_steps, today, study.grid)
        work = Journal(folder / "evaluation", {"model": model.fingerprint, **asked.identity()})
        found = _Evaluation(source, asked, tables, work, extractor, say)
        outcome = replace(outcome, samplers=found.samplers(), counts=found.counts(outcome.counts))
        chosen = decide(outcome).closest
        if chosen is not None:
            pictures = draw_pictures(
                source, tables, outcome, chosen, seed_range("evaluation", study.seed, study.samples)
            )
            outcome = replace(outcome, pictures=pictures)
        say("drawing", 1, 1)
    except NonFiniteError as error:
        outcome = replace(outcome, failed="non-finite", detail=str(error))
    if is_first():
        save_outcome(outcome, folder / "outcome.json")
    return outcome


def _keep(outcome: Outcome, asked: Asked, folder: Path) -> None:
    """Write an unfinished outcome, from which a page can say that the same command goes on."""
    if is_first():
        save_outcome(replace(outcome, failed="unfinished", detail=asked.command), folder / "outcome.json")


def _empty(model: Model, asked: Asked, today: int, figures: Figures) -> Outcome:
    """An outcome with everything that is known before the work."""
    effort = asked.effort
    return Outcome(
        subject=Subject(model.name, model.fingerprint, model.shape, model.num_classes, asked.guidance),
        machine=Machine(
            device=str(model.device),
            processor=_processor(model.device),
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
            longstride=__version__,
        ),
        date=datetime.now().date().isoformat(),
        command=asked.command,
        quick=asked.quick,
        seed=asked.seed,
        today=(asked.today, today),
        asked=asked.nfes,
        counts=Counts(
            fitted=effort.fitted,
            held_out=effort.held_out,
            evaluated=effort.samples,
            batch=effort.batch,
            reference_calls=effort.reference_steps,
            reference_error=None,
            dimensions=effort.dimensions,
            features=asked.study.features if effort.dimensions else "",
            rounds=effort.rounds,
        ),
        samplers=(),
        calibrated=(),
        cost=Cost(0, 0.0),
        figures=figures,
    )


def _processor(device: torch.device) -> str:
    """Name of the processor or the accelerator, for people."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, UnicodeDecodeError):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _calibrated(model: Model, asked: Asked, journal: Journal, watch: Stopwatch, say: Say) -> tuple[CardBook, Cost]:
    """The book of all calibrated tables, and what it cost; taken from the folder if it is there."""
    assert journal.folder is not None
    effort, place = asked.effort, journal.folder / "cards.json"
    samples = effort.fitted + effort.held_out

    def progress(done: int, total: int, what: str) -> None:
        watch.tick()
        say(what, done, total)

    if not place.exists():
        made = calibrate_book(
            model,
            asked.nfes,
            [asked.guidance],
            seeds=seed_range("calibration", asked.seed, samples),
            held_out=effort.held_out,
            spacing="auto",
            reference_steps=effort.reference_steps,
            batch_size=64,
            seed=asked.seed,
            journal=journal.folder / "calibration",
            progress=progress,
            scouts=effort.scouts,
        )
        journal.put("calibrated", {"seconds": np.array(watch.stop()), "starts": np.array(watch.starts)})
        made.save(place)
        wait()
    book, kept = load_book(place), journal.read("calibrated")
    converged = book.entries[0].card.end.reference_nfe * samples * (1 if asked.guidance is None else 2)
    passes = sum(entry.card.calls or 0 for entry in book.entries) + converged
    return book, Cost(passes, float(kept["seconds"]), int(kept["starts"]))


def _said(card: Card, how: How) -> Calibrated:
    """What a card says of itself."""
    end, search = card.end, card.search
    return Calibrated(
        calls=card.nfe,
        how=how,
        base=card_label(search.base if search is not None else card.base.name),
        reason=end.reason,
        held_out=(end.base.rmse, end.calibrated.rmse),
        gain=None if end.stability is None else (end.stability.base_gain, end.stability.gain),
        needs_guard=card.needs_guard is not None,
    )


def _tables(model: Model, asked: Asked, today: SolverTable, book: CardBook) -> dict[Key, SolverTable]:
    """All samplers: today's first, then the calibrated ones, then all others."""
    study, counts = asked.study, [*asked.nfes, *asked.between]
    tables: dict[Key, SolverTable] = {(asked.today, today.nfe): today}
    for entry in book.entries:
        tables["calibrated", entry.card.nfe] = entry.card.table
        tables["best_classical", entry.card.nfe] = entry.card.base_table
    for one in study.entrants:
        for nfe in counts:
            table = study.table(model.schedule, one, nfe)
            tables.setdefault((one.name, table.nfe), table)
    for nfe in counts:  # the levels on which it is often best
        try:
            table = base_table(model.schedule, "unipc", nfe, grid="log_snr", exactly=False, order=3)
        except InputError:
            break  # a process without such levels
        tables.setdefault(("unipc3_log_snr", table.nfe), table)
    return tables


@dataclass(frozen=True)
class _Evaluation:
    """Errors, distances and seconds of all samplers."""

    source: NetworkSource
    asked: Asked
    tables: Mapping[Key, SolverTable]
    journal: Journal
    extractor: Extractor | None
    say: Say

    @property
    def _seeds(self) -> range:
        return seed_range("evaluation", self.asked.seed, self.asked.effort.samples)

    @cached_property
    def _space(self) -> FeatureSpace | None:
        if self.extractor is None:
            return None
        return space_of(self.source, self.asked.study, self.journal, self.extractor)

    def counts(self, planned: Counts) -> Counts:
        """The planned counts with the reference's calls and error."""
        measurer = self._measurer()
        error = measurer.reference_error(self._seeds, self.asked.effort.batch)
        return replace(planned, reference_error=error if np.isfinite(error) else None)

    def _measurer(self) -> Measurer:
        return Measurer(
            source=self.source,
            extractor=self.extractor,
            space=self._space,
            journal=self.journal,
            say=lambda what, done, total: None,
        )

    def samplers(self) -> tuple[Sampler, ...]:
        """All samplers with everything that was measured of them."""
        study = self.asked.study
        names = {name: None for name, _ in self.tables}
        measure_source(
            self.source,
            study,
            self.tables,
            names,
            self.journal,
            self.extractor,
            space=self._space,
            others=False,
            tails=False,
            say=self.say,
        )
        teacher, tallies = self._measurer().contest(self._seeds, study.batch_size, self.tables)  # all parts are there
        seconds = self._seconds()
        first = next(iter(self.tables))
        return tuple(self._sampler(key, tally, tallies[first], teacher, seconds) for key, tally in tallies.items())

    def _sampler(
        self, key: Key, tally: Tally, today: Tally, teacher: Tally, seconds: Mapping[Key, tuple[float, ...]]
    ) -> Sampler:
        name, calls = key
        errors = np.sqrt(np.concatenate(tally.squared))
        distance = change = None
        if self.asked.effort.dimensions:
            distance = _distance(tally, teacher)
            change = None if tally is today else _distance(tally, teacher, today)
        return Sampler(
            name=name,
            label=card_label("unipc3@log_snr") if name == "unipc3_log_snr" else card_label(name),
            kind="calibrated" if name == "calibrated" else "today" if name == self.asked.today else "classical",
            calls=calls,
            errors=tuple(float(f"{error:.6g}") for error in errors),
            distance=distance,
            distance_change=change,
            seconds=seconds.get(key, ()),
        )

    def _seconds(self) -> dict[Key, tuple[float, ...]]:
        """Seconds per picture of today's sampler and the calibrated ones; in every round all take turns."""
        timed = [key for key in self.tables if key[0] == "calibrated"]
        timed.insert(0, next(iter(self.tables)))
        effort = self.asked.effort
        batch = self.source.batch(self._seeds[: min(effort.batch, effort.samples)])
        warm = False
        rounds = []
        for number in range(effort.rounds):
            place = f"timing/{number}"
            if (kept := self.journal.get(place)) is None:
                if not warm:
                    batch.drawn(self.tables[timed[-1]])
                    warm = True
                kept = {"seconds": np.array([_timed(batch, self.tables[key], self.source.device) for key in timed])}
                self.journal.put(place, kept)
            rounds.append(kept["seconds"])
            self.say("timing", number + 1, effort.rounds)
        size = min(effort.batch, effort.samples)
        values = np.stack(rounds) / size
        return {key: tuple(float(f"{one:.6g}") for one in values[:, n]) for n, key in enumerate(timed)}


def _timed(batch: Any, table: SolverTable, device: torch.device) -> float:
    """Seconds that a batch takes."""
    _finished(device)
    begun = time.perf_counter()
    batch.drawn(table)
    _finished(device)
    return time.perf_counter() - begun


def _finished(device: torch.device) -> None:
    """Wait for the accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _distance(tally: Tally, teacher: Tally, today: Tally | None = None) -> Interval:
    """Fréchet distance to the converged samples, or how much larger it is than today's."""
    dimensions, sets = teacher.coordinates.shape[1], [one for one in (tally, teacher, today) if one is not None]
    packed: Array = np.stack([one.moments for one in sets], axis=1)

    def value(sums: Array) -> float:
        moments = [Moments.unpack(part, dimensions) for part in sums]
        found = frechet_distance(moments[0], moments[1])
        return found if today is None else found - frechet_distance(moments[2], moments[1])

    return group_bootstrap(value, packed, replicates=_REPLICATES)
