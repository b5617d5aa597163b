"""A study: calibrate contestants on a model, and measure them on noise that calibration did not see.

Every finished batch is kept, of calibration and of evaluation, so that a study that is killed goes on where it was and
ends in the same numbers; and processes that a launcher started share the batches and end in those numbers too.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longstride.calibration import Reference, calibrate
from longstride.calibration.batches import Batches
from longstride.calibration.calibrate import shared_reference
from longstride.calibration.reference import least_level
from longstride.card import Card, load_card
from longstride.errors import CardError, InputError
from longstride.evaluation.contestants import CONTESTANTS, Contestant, base_table, contestant, spacing_of
from longstride.evaluation.features import load_features
from longstride.evaluation.frechet import FeatureSpace
from longstride.evaluation.measure import Key, Measurer, split_batches
from longstride.evaluation.real import own_pictures
from longstride.evaluation.reference_set import ReferenceSet
from longstride.evaluation.results import Results
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.summary import Summary
from longstride.grid import Final
from longstride.journal import Journal, digest
from longstride.processes import gather, mine, rank_and_size
from longstride.schedule import Schedule
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["Outcome", "Study", "run_study"]

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Study:
    """What is compared, and on how many samples.

    Attributes:
        contestants: Names from :data:`~longstride.evaluation.contestants.CONTESTANTS`; the base of a calibrated one
            takes part too.
        nfes: Network calls per sample. A solver that cannot spend a number exactly spends the most it can below it.
        grid: Grid of all solvers; ``"auto"``: ``karras`` for variance-exploding models and for Heun, as in EDM, else
            ``uniform``.
        final: Last level of the grid.
        samples: Evaluation samples, and as many of the teacher's from other noise.
        batch_size: Samples per network call.
        calibration_samples: Samples that calibration sees; half of them decide what is accepted.
        substeps: IIA's M.
        reference_steps: Steps of the converged solution (UniPC-3).
        features: Feature extractor of the Fréchet distance.
        dimensions: Principal components that it is measured in; 0 measures errors only.
        guidance: Classifier-free guidance scale, or None.
        seed: Shifts every seed.
    """

    contestants: tuple[str, ...] = ("iia_ddim", "iia_spndm", "iia_ipndm", "dpmpp_2m", "unipc")
    nfes: tuple[int, ...] = (5, 6, 8, 10)
    grid: str = "auto"
    final: Final = "sigma_min"
    samples: int = 1024
    batch_size: int = 32
    calibration_samples: int = 128
    substeps: int = 10
    reference_steps: int = 64
    features: str = "efficientnet-lite0"
    dimensions: int = 64
    guidance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.nfes or min(self.nfes) < 1:
            raise InputError(f"nfes must be one or more numbers of calls, got {self.nfes}")
        if self.samples < 2 or self.calibration_samples < 2 or self.batch_size < 1:
            raise InputError("a study needs at least 2 samples, 2 calibration samples and a batch size of 1")
        if self.dimensions >= self.samples:
            raise InputError(
                f"a Fréchet distance in {self.dimensions} dimensions needs more than {self.samples} samples"
            )
        for name in self.contestants:
            contestant(name)

    @property
    def entrants(self) -> list[Contestant]:
        """The contestants, each behind its base, once."""
        wanted = [contestant(name) for name in self.contestants]
        bases = [[b for b in (one.base, one.name) if b is not None] for one in wanted]
        return [contestant(name) for name in dict.fromkeys(name for pair in bases for name in pair)]

    def table(self, schedule: Schedule, one: Contestant, nfe: int) -> SolverTable:
        """Base table of a contestant at up to ``nfe`` calls."""
        spacing = (one.spacing if self.grid == "auto" else None) or self.grid
        return base_table(schedule, one.solver, nfe, spacing=spacing, final=self.final, exactly=False, **one.options)


@dataclass(frozen=True)
class Outcome:
    """What :func:`run_study` gives.

    Attributes:
        results: The tidy table.
        tables: The sampler of every contestant and number of calls.
        cards: The calibrated ones' cards.
    """

    results: Results
    tables: dict[Key, SolverTable]
    cards: dict[Key, Card]


def run_study(
    model: Model,
    study: Study,
    folder: Path | None = None,
    *,
    cards: Mapping[str, Card] | None = None,
    real: ReferenceSet | None = None,
    say: Say = lambda what, done, total: None,
) -> Outcome:
    """Calibrate and compare.

    Args:
        model: The pretrained model.
        study: What to compare.
        folder: Where finished batches and cards are kept; the same study goes on there after a kill. Default: nowhere.
        cards: Further contestants, by name: samplers that were calibrated before, between the same levels.
        real: Statistics of real pictures; default: the model's own, where it has them.
        say: Called with (what is being done, done, total).

    Raises:
        InputError: samples that are no pictures, a folder of another study, a card between other levels.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="longstride-") as temporary:
            return run_study(model, study, Path(temporary), cards=cards, real=real, say=say)
    tables, bases = _entries(model, study, cards or {})
    any_table = next(iter(tables.values()))
    extractor = None
    anchor = None
    if study.dimensions:
        model.check_pictures()
        extractor = load_features(study.features, model.device)
        anchor = _anchor(model, study, real)
    journal = Journal(folder, _identity(model, study, anchor))
    made = _calibrate_all(model, study, tables, folder, say)
    tables |= {key: card.table for key, card in made.items()}
    measurer = Measurer(
        model,
        guidance=study.guidance,
        reference_steps=study.reference_steps,
        extractor=extractor,
        space=None if anchor is None else anchor.space,
        journal=journal,
        say=say,
    )
    other = None
    if extractor is not None:
        if measurer.space is None:
            measurer.space = _axes(measurer, study, any_table)
        teacher_seeds = seed_range("teacher", study.seed, study.samples)
        other = measurer.teacher("teacher", teacher_seeds, study.batch_size, any_table)
    seeds = seed_range("evaluation", study.seed, study.samples)
    tallies = dict(measurer.contest(seeds, study.batch_size, tables))
    teacher, cost = tallies.pop(("teacher", 0)), 1 if study.guidance is None else 2
    for (name, nfe), tally in tallies.items():
        if tally.calls != nfe * cost:
            raise AssertionError(f"{name} made {tally.calls} network calls per sample instead of {nfe * cost}")
    say("intervals", 0, 1)
    summary = Summary(
        model=model.name,
        guidance=study.guidance,
        bases=bases,
        teacher=teacher,
        other=other,
        real=anchor,
        teacher_nfe=round(teacher.calls / cost),
        cost=cost,
    )
    lines = summary.lines(tallies)
    say("intervals", 1, 1)
    about = {
        "model": {"name": model.name, "fingerprint": model.fingerprint, "classes": model.num_classes},
        "study": {**asdict(study), "grid": spacing_of(study.grid, model.schedule)},
        "reference": {
            "solver": "unipc, order 3",
            "nfe": summary.teacher_nfe,
            "error": measurer.reference_error(seeds, study.batch_size),
        },
        "features": None if extractor is None else extractor.label,
        "real": None if anchor is None else _yardstick(anchor, study.samples),
        "cards": {f"{name}-{nfe}": _card_line(card) for (name, nfe), card in made.items()},
        "groups": len(split_batches(seeds, study.batch_size)),
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "device": str(model.device)},
    }
    return Outcome(Results(json.loads(json.dumps(about)), tuple(lines)), tables, made)


def _entries(
    model: Model, study: Study, cards: Mapping[str, Card]
) -> tuple[dict[Key, SolverTable], dict[str, str | None]]:
    """Base tables of the contestants and the tables of cards, and every name's base."""
    tables: dict[Key, SolverTable] = {}
    bases: dict[str, str | None] = {}
    for one in study.entrants:
        bases[one.name] = one.base
        for nfe in study.nfes:
            table = study.table(model.schedule, one, nfe)
            tables.setdefault((one.name, table.nfe), table)
    for name, card in cards.items():
        card.check_model(model.info(study.guidance))
        base = f"{name} (base)"
        if name in bases or base in bases or name in (*CONTESTANTS, "teacher"):
            raise InputError(f"two samplers are called {name!r}: rename the card's file")
        tables[base, card.nfe], bases[base] = card.base_table, None
        tables[name, card.nfe], bases[name] = card.table, base
    if not tables:
        raise InputError("a study needs a contestant or a card")
    first = next(iter(tables.values()))
    for (name, _), table in tables.items():
        if not np.allclose(table.sigmas[[0, -1]], first.sigmas[[0, -1]], rtol=1e-6):
            raise InputError(
                f"{name} runs from sigma {table.sigmas[0]:g} to {table.sigmas[-1]:g}, the others from "
                f"{first.sigmas[0]:g} to {first.sigmas[-1]:g}: they have no converged solution in common"
            )
    return tables, bases


def _anchor(model: Model, study: Study, real: ReferenceSet | None) -> ReferenceSet | None:
    """Real pictures to compare with, where there are any."""
    anchor = own_pictures(model, study.features) if real is None else real
    return None if anchor is None else anchor.reduced(study.dimensions)


def _identity(model: Model, study: Study, anchor: ReferenceSet | None) -> dict[str, Any]:
    """What finished batches depend on. Who takes part is not of it, so that others can be added later."""
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


def _axes(measurer: Measurer, study: Study, table: SolverTable) -> FeatureSpace:
    """Directions of largest variance of the teacher's own pictures, from noise that serves nothing else."""
    seeds = seed_range("axes", study.seed, max(4 * study.dimensions, 64))
    batches, found = split_batches(seeds, study.batch_size), {}
    for number in mine(range(len(batches))):
        parts = []
        for batch in batches[number]:

            def seen(batch: range = batch) -> dict[str, Any]:
                samples, _, _ = measurer.converged(batch, table, check=0)
                return {"features": measurer.features(samples).cpu().numpy()}

            parts.append(measurer.journal(f"axes/{batch.start - seeds.start:08d}", seen)["features"])
        found[number] = np.concatenate(parts).astype(np.float64)
    assert measurer.extractor is not None
    shapes = [(sum(map(len, group)), measurer.extractor.dimensions) for group in batches]
    features = torch.from_numpy(np.concatenate(gather(found, shapes)))
    return FeatureSpace.fit(features, study.dimensions, name=study.features)


def _calibrate_all(
    model: Model, study: Study, tables: Mapping[Key, SolverTable], folder: Path, say: Say
) -> dict[Key, Card]:
    """Cards of all calibrated contestants; one noise and one converged solution serve all of them."""
    entrants = {one.name: one for one in study.entrants if one.method is not None}
    wanted = {key: table for key, table in tables.items() if key[0] in entrants}
    seeds = seed_range("calibration", study.seed, study.calibration_samples)
    held_out, found = len(seeds) // 2, {}
    reference: Reference | None = None
    for done, (key, table) in enumerate(wanted.items()):
        say("calibrating", done, len(wanted))
        place = folder / "cards" / f"{key[0]}-{key[1]}.json"
        card = _finished(place, table, entrants[key[0]], study)
        if card is None:
            denoiser, noise = model.denoiser(seeds, study.guidance), model.noise(seeds, table.sigmas[0])
            if reference is None:
                kept = Journal(folder / "calibration" / "reference")
                batches = Batches(denoiser, noise, held_out, study.batch_size, kept)
                floor = least_level(denoiser, table)
                reference = shared_reference(batches, table, steps=study.reference_steps, floor=floor)
            one = entrants[key[0]]
            card = calibrate(
                denoiser,
                noise,
                table,
                method=one.method or "iia",
                reference=reference,
                held_out=held_out,
                batch_size=study.batch_size,
                model=model.info(study.guidance),
                seed=study.seed,
                journal=folder / "calibration" / f"{key[0]}-{key[1]}",
                **{"substeps": study.substeps, **one.settings},
            ).card
            place.parent.mkdir(parents=True, exist_ok=True)
            card.save(place)
            shutil.rmtree(folder / "calibration" / place.stem, ignore_errors=True)
        found[key] = card
    say("calibrating", len(wanted), max(1, len(wanted)))
    return found


def _finished(place: Path, table: SolverTable, one: Contestant, study: Study) -> Card | None:
    """The card at ``place``, if every process has it and it is of this base and these settings."""
    try:
        card = load_card(place) if place.exists() else None
    except CardError:
        card = None
    if card is not None:
        wanted = {"substeps": study.substeps, **one.settings, "samples": study.calibration_samples, "seed": study.seed}
        same = card.method == one.method and wanted.items() <= card.settings.items()
        card = card if same and card.base_table.distance(table) == 0 else None
    rank, size = rank_and_size()
    have = gather({rank: np.array([float(card is not None)])}, [(1,)] * size)
    return card if min(float(flag[0]) for flag in have) == 1 else None
