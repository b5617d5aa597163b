"""The cards of a study: every calibrated contestant, from one noise and one converged solution."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longstride.calibration import Reference, calibrate
from longstride.calibration.converged import solved
from longstride.calibration.method import configured, described
from longstride.calibration.methods import method_of
from longstride.calibration.samples import Samples
from longstride.card import Card, load_card
from longstride.errors import CardError
from longstride.evaluation.contestants import Contestant
from longstride.evaluation.measure import Key
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.study import Study
from longstride.processes import gather, rank_and_size
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["Say", "calibrate_entrants"]

#: Called with (what is being done, done, total).
Say = Callable[[str, int, int], None]


def calibrate_entrants(
    model: Model, study: Study, tables: Mapping[Key, SolverTable], folder: Path, say: Say
) -> dict[Key, Card]:
    """Cards of all calibrated contestants, from one noise and one converged solution.

    Args:
        model: The pretrained model.
        study: What is compared.
        tables: The base table of every contestant and number of calls.
        folder: Folder of the study; cards that are there and fit are taken as they are.
        say: Called with (what is being done, done, total).
    """
    entrants = {one.name: one for one in study.entrants if one.method is not None}
    wanted = {key: table for key, table in tables.items() if key[0] in entrants}
    places = {key: folder / "cards" / f"{key[0]}-{key[1]}.json" for key in wanted}
    kept = {key: _finished(places[key], table, entrants[key[0]], study) for key, table in wanted.items()}
    whole = any(entrants[key[0]].whole for key, card in kept.items() if card is None)
    seeds = seed_range("calibration", study.seed, study.calibration_samples)
    held_out, found = len(seeds) // 2, {}
    reference: Reference | None = None
    for done, (key, table) in enumerate(wanted.items()):
        say("calibrating", done, len(wanted))
        place, card = places[key], kept[key]
        if card is None:
            denoiser, noise = model.denoiser(seeds, study.guidance), model.noise(seeds, table.sigmas[0])
            if reference is None:
                samples = Samples.of(
                    denoiser,
                    noise,
                    next(iter(wanted.values())),  # also after a kill, when the first card is there
                    held_out=held_out,
                    steps=study.reference_steps,
                    batch_size=study.batch_size,
                )
                place_of_all = folder / "calibration" / "reference"
                reference = solved(samples.kept(place_of_all), whole=whole).reference
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
                **_settings(one, study),
            ).card
            place.parent.mkdir(parents=True, exist_ok=True)
            card.save(place)
            shutil.rmtree(folder / "calibration" / place.stem, ignore_errors=True)
        found[key] = card
    say("calibrating", len(wanted), max(1, len(wanted)))
    return found


def _settings(one: Contestant, study: Study) -> dict[str, Any]:
    """Settings of a contestant's calibration; of the methods only IIA makes fine steps."""
    own = method_of(one.method or "iia")
    fine = {"substeps": study.substeps} if hasattr(own.settings, "substeps") else {}
    return {**fine, **one.settings}


def _same_run(base: SolverTable, table: SolverTable, one: Contestant) -> bool:
    """Whether a card's base fits a contestant's table: equal to it, or for a whole fit between the same two levels."""
    if not one.whole:
        return base.distance(table) == 0
    return base.nfe == table.nfe and np.array_equal(base.sigmas[[0, -1]], table.sigmas[[0, -1]])


def _finished(place: Path, table: SolverTable, one: Contestant, study: Study) -> Card | None:
    """The card at ``place``, if every process has a card there with this base and these settings."""
    try:
        card = load_card(place) if place.exists() else None
    except CardError:
        card = None
    if card is not None:
        chosen = described(configured(method_of(one.method or "iia"), None, _settings(one, study)))
        wanted = {**chosen, "samples": study.calibration_samples, "seed": study.seed}
        same = card.method == one.method and wanted.items() <= card.settings.items()
        card = card if same and _same_run(card.base_table, table, one) else None
    rank, size = rank_and_size()
    have = gather({rank: np.array([float(card is not None)])}, [(1,)] * size)
    return card if min(float(flag[0]) for flag in have) == 1 else None
