"""Calibrate a model and measure what came out, on noise that calibration did not see.

Every finished part is kept in a folder: a measurement that was killed goes on where it stopped, when the same is asked
for again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from longstride.book import CardBook, load_book
from longstride.calibration.many import calibrate_book
from longstride.card import Card
from longstride.card_parts import How
from longstride.errors import InputError, NonFiniteError
from longstride.evaluation.contestants import base_table, card_label, contestant
from longstride.evaluation.features import load_features
from longstride.evaluation.measure import Key
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.source import NetworkSource
from longstride.journal import Journal
from longstride.processes import is_first, wait
from longstride.report.asked import Asked
from longstride.report.decision import decide
from longstride.report.evaluation import Evaluation
from longstride.report.outcome import (
    Calibrated,
    Cost,
    Counts,
    Figures,
    Machine,
    Outcome,
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
        found = Evaluation(source, asked, tables, work, extractor, say)
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
            **effort.settings,
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
