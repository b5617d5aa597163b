"""Every sampler of a proof of concept on noise that calibration did not see: errors, distances and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from longstride.arrays import Array
from longstride.evaluation.bootstrap import Interval, group_bootstrap
from longstride.evaluation.contestants import card_label
from longstride.evaluation.features import Extractor
from longstride.evaluation.frechet import FeatureSpace, Moments, frechet_distance
from longstride.evaluation.measure import Key, Measurer, Tally
from longstride.evaluation.runner import measure_source, space_of
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.source import NetworkSource
from longstride.journal import Journal
from longstride.report.asked import Asked
from longstride.report.outcome import (
    Counts,
    Sampler,
)
from longstride.table import SolverTable

__all__ = ["Evaluation"]

Say = Callable[[str, int, int], None]
#: Replicates of a bootstrap of Fréchet distances.
_REPLICATES = 200


@dataclass(frozen=True)
class Evaluation:
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
