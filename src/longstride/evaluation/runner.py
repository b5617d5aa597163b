"""A study: calibrate contestants on a model, and measure them on noise that calibration did not see.

Every finished batch is kept, of calibration and of evaluation. So a study that is killed goes on later and ends in the
same numbers. Processes that a launcher started share the batches, and end in the same numbers too.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longstride.book import CardBook
from longstride.calibration.reference.solve import ORDER
from longstride.card import Card
from longstride.evaluation.contestants import spacing_of
from longstride.evaluation.entries import entries_of
from longstride.evaluation.features import Extractor, load_features
from longstride.evaluation.fitting import Say, calibrate_entrants
from longstride.evaluation.frechet import FeatureSpace
from longstride.evaluation.measure import Key, Measurer, number_of, split_batches
from longstride.evaluation.real import own_pictures
from longstride.evaluation.reference_set import ReferenceSet
from longstride.evaluation.results import Results
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.source import GuardedSampler, NetworkSource, Sampler, Source
from longstride.evaluation.study import Study
from longstride.evaluation.summary import Summary
from longstride.journal import Journal, digest
from longstride.processes import gather, mine
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["Outcome", "measure_samplers", "measure_source", "run_study", "space_of"]


@dataclass(frozen=True)
class Outcome:
    """What :func:`run_study` gives.

    Attributes:
        results: The tidy table.
        tables: The sampler of every contestant and number of calls.
        cards: The cards of the calibrated contestants.
    """

    results: Results
    tables: dict[Key, SolverTable]
    cards: dict[Key, Card]


def run_study(
    model: Model,
    study: Study,
    folder: Path | None = None,
    *,
    cards: Mapping[str, Card | CardBook] | None = None,
    real: ReferenceSet | None = None,
    any_model: bool = False,
    say: Say = lambda what, done, total: None,
    guarded: bool = True,
) -> Outcome:
    """Calibrate and compare.

    Args:
        model: The pretrained model.
        study: What to compare.
        folder: Folder for finished batches and cards, in which the same study goes on after a kill. By default nothing
            is kept.
        cards: Further contestants by name: samplers that were calibrated before, between the same levels. Of a book
            the cards at the study's guidance take part. If the study has contestants, they are also limited to its
            numbers of calls.
        real: Statistics of real pictures; by default the statistics beside the model, if there are any.
        any_model: Whether cards that were calibrated on other weights take part.
        say: Called with (what is being done, done, total).
        guarded: Whether cards that have a guard are measured with it.

    Raises:
        CardError: a card was calibrated on other weights, or at another guidance scale.
        InputError: the samples are no pictures, the folder is of another study, or a card has other levels.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="longstride-") as temporary:
            options: dict[str, Any] = {"cards": cards, "real": real, "any_model": any_model, "guarded": guarded}
            return run_study(model, study, Path(temporary), **options, say=say)
    tables, bases, held = entries_of(model, study, cards or {}, any_model=any_model)
    _opened(model, study, folder, real)
    made = calibrate_entrants(model, study, tables, folder, say)
    tables |= {key: card.table for key, card in made.items()}
    samplers: dict[Key, Sampler] = dict(tables)
    if guarded:
        samplers |= {key: GuardedSampler(card) for key, card in {**held, **made}.items() if card.guard is not None}
    results = measure_samplers(model, study, next(iter(tables.values())), samplers, bases, folder, real=real, say=say)
    about = {**results.about, "cards": {f"{name}-{nfe}": _card_line(card) for (name, nfe), card in made.items()}}
    return Outcome(Results(about, results.lines), tables, made)


def _opened(model: Model, study: Study, folder: Path, real: ReferenceSet | None) -> tuple[Journal, Any, Any]:
    """The journal in a study's folder, the feature extractor and the real pictures; checked before any long work.

    Raises:
        InputError: the samples are no pictures, or the folder is of another study.
    """
    extractor = None
    anchor = None
    if study.dimensions:
        model.check_pictures()
        extractor = load_features(study.features, model.device)
        anchor = _anchor(model, study, real)
    return Journal(folder, _identity(model, study, anchor)), extractor, anchor


def measure_samplers(
    model: Model,
    study: Study,
    ends: SolverTable,
    samplers: Mapping[Key, Sampler],
    bases: Mapping[str, str | None],
    folder: Path,
    *,
    real: ReferenceSet | None = None,
    others: bool = True,
    say: Say = lambda what, done, total: None,
    keep: bool = False,
) -> Results:
    """Draw all samplers from the same fresh noise, and measure them.

    Args:
        model: The pretrained model.
        study: Gives samples, guidance and features; its contestants are ignored.
        ends: Gives the first and the last level that all samplers share.
        samplers: Samplers by name and number of calls.
        bases: The name that each name is compared with, or None.
        folder: Folder for finished batches.
        real: Statistics of real pictures; by default the statistics beside the model, if there are any.
        others: Whether converged samples from other noise are measured, too.
        say: Called with (what is being done, done, total).
        keep: Whether the converged samples stay in ``folder``, so that they need not be solved for again.
    """
    journal, extractor, anchor = _opened(model, study, folder, real)
    grid = spacing_of(study.grid, model.schedule)
    source = NetworkSource(model, study.guidance, study.reference_steps, ends, grid)
    return measure_source(
        source, study, samplers, bases, journal, extractor, real=anchor, others=others, say=say, keep=keep
    )


def measure_source(
    source: Source,
    study: Study,
    samplers: Mapping[Key, Any],
    bases: Mapping[str, str | None],
    journal: Journal,
    extractor: Extractor | None,
    *,
    real: ReferenceSet | None = None,
    space: FeatureSpace | None = None,
    others: bool = True,
    tails: bool = True,
    say: Say = lambda what, done, total: None,
    keep: bool = False,
) -> Results:
    """Draw all samplers of a source from the same fresh noise, and measure them.

    Args:
        source: Draws the samples.
        study: Gives samples, seeds and features; its contestants are ignored.
        samplers: Samplers by name and number of calls, as the source takes them.
        bases: The name that each name is compared with, or None.
        journal: Keeps finished batches.
        extractor: Features for Fréchet distances; without one only errors are measured.
        real: Statistics of real pictures, or None.
        space: Space of the distances; default: that of ``real``, or the converged samples' own.
        others: Whether converged samples from other noise are measured, too.
        tails: Whether the shares of samples that are worse than the base's, and much worse, are told, too.
        say: Called with (what is being done, done, total).
        keep: Whether the converged samples stay in the journal, so that they need not be solved for again.
    """
    space = space if real is None else real.space
    measurer = Measurer(source=source, extractor=extractor, space=space, journal=journal, say=say, keep=keep)
    other = None
    if extractor is not None:
        if measurer.space is None:
            measurer.space = _axes(measurer, study)
        if others:
            other = measurer.teacher("teacher", seed_range("teacher", study.seed, study.samples), study.batch_size)
    seeds = seed_range("evaluation", study.seed, study.samples)
    teacher, tallies = measurer.contest(seeds, study.batch_size, samplers)
    for (name, nfe), tally in tallies.items():
        most = getattr(samplers[name, nfe], "most_calls", nfe)  # a guard's base makes some samples again
        if not nfe * source.cost <= tally.calls <= most * source.cost:
            raise AssertionError(f"{name} made {tally.calls} network calls per sample instead of {nfe * source.cost}")
    say("intervals", 0, 1)
    summary = Summary(
        model=source.name,
        guidance=source.guidance,
        bases=bases,
        teacher=teacher,
        other=other,
        real=real,
        teacher_nfe=round(teacher.calls / source.cost),
        cost=source.cost,
        tails=tails,
    )
    lines = summary.lines(tallies)
    say("intervals", 1, 1)
    facts = source.about
    about = {
        "model": facts["model"],
        "study": {**asdict(study), "grid": facts["grid"]},
        "reference": {
            "solver": f"unipc, order {ORDER}",
            "nfe": summary.teacher_nfe,
            "error": measurer.reference_error(seeds, study.batch_size),
        },
        "features": None if extractor is None else extractor.label,
        "real": None if real is None else _yardstick(real, study.samples),
        "groups": len(split_batches(seeds, study.batch_size)),
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "device": str(source.device)},
    }
    return Results(json.loads(json.dumps(about)), tuple(lines))


def space_of(source: Source, study: Study, journal: Journal, extractor: Extractor) -> FeatureSpace:
    """The space in which :func:`measure_source` measures distances if it is given none: made once for several sources.

    Args:
        source: Draws the samples.
        study: Gives samples, seeds and features.
        journal: Keeps finished batches.
        extractor: Features for Fréchet distances.
    """
    measurer = Measurer(
        source=source, extractor=extractor, space=None, journal=journal, say=lambda what, done, total: None
    )
    return _axes(measurer, study)


def _anchor(model: Model, study: Study, real: ReferenceSet | None) -> ReferenceSet | None:
    """Real pictures to compare with, or None."""
    anchor = own_pictures(model, study.features) if real is None else real
    return None if anchor is None else anchor.reduced(study.dimensions)


def _identity(model: Model, study: Study, anchor: ReferenceSet | None) -> dict[str, Any]:
    """What finished batches depend on; without the contestants, so that more can be added later."""
    fixed = {key: value for key, value in asdict(study).items() if key not in ("contestants", "nfes")}
    network: dict[str, Any] = {"model": model.fingerprint, "prediction": model.prediction, "clip": model.clip}
    network |= {"schedule": digest(repr(model.schedule)), "prompts": model.prompts}
    return {**fixed, **network, "real": None if anchor is None else anchor.digest}


def _yardstick(anchor: ReferenceSet, samples: int) -> dict[str, Any]:
    size, distance = anchor.floor_near(samples)
    return {"source": anchor.source, "floor": distance, "floor_samples": size}


def _card_line(card: Card) -> dict[str, Any]:
    accepted = [step.accepted for step in card.steps]
    return {
        "accepted": card.end.accepted,
        "rows": f"{sum(accepted)}/{len(accepted)}",
        "held_out_rmse": [card.end.base.rmse, card.end.calibrated.rmse],
    }


def _axes(measurer: Measurer, study: Study) -> FeatureSpace:
    """Directions of largest variance of the teacher's own pictures, from noise of their own."""
    seeds = seed_range("axes", study.seed, max(4 * study.dimensions, 64))
    batches, found = split_batches(seeds, study.batch_size), {}
    for number in mine(range(len(batches))):
        parts = []
        for batch in batches[number]:

            def seen(batch: range = batch) -> dict[str, Any]:
                samples, _, _ = measurer.source.batch(batch).converged(check=0)
                return {"features": measurer.features(samples).cpu().numpy()}

            parts.append(measurer.journal(f"axes/{number_of(batch, seeds)}", seen)["features"])
        found[number] = np.concatenate(parts).astype(np.float64)
    assert measurer.extractor is not None
    shapes = [(sum(map(len, group)), measurer.extractor.dimensions) for group in batches]
    features = torch.from_numpy(np.concatenate(gather(found, shapes)))
    return FeatureSpace.fit(features, study.dimensions, name=study.features)
