"""Drawing and measuring: one batch of seeds at a time, each of them a part of a journal.

Of a picture three things are kept: its coordinates in the feature space, its error to the converged solution, and a
few statistics. Batches come in *groups* of consecutive seeds. One process does a whole group. Intervals come from
resampled groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import squared_errors
from longstride.evaluation.features import Extractor
from longstride.evaluation.frechet import FeatureSpace, Moments
from longstride.evaluation.source import Source
from longstride.evaluation.statistics import PICTURE_STATISTICS, picture_statistics
from longstride.journal import Journal, table_digest
from longstride.processes import gather, mine
from longstride.table import SolverTable

__all__ = ["GROUPS", "Key", "Measurer", "Tally", "number_of", "split_batches"]

#: A contestant and its number of network calls.
Key = tuple[str, int]
#: The largest number of groups, and so of processes that can share an evaluation.
GROUPS = 64
#: For the measures that compare neighbours, the coordinates of so many samples are kept.
NEIGHBOURS = 1000
#: Place of what is kept of the converged samples of a batch.
_CONVERGED = "batches/{}/teacher"


def split_batches(seeds: range, batch_size: int) -> list[list[range]]:
    """At most :data:`GROUPS` groups of batches; their numbers of batches differ by at most one."""
    batches = [seeds[begin : begin + batch_size] for begin in range(0, len(seeds), batch_size)]
    bounds = np.linspace(0, len(batches), min(GROUPS, len(batches)) + 1).round().astype(int)
    return [batches[a:b] for a, b in pairwise(bounds.tolist())]


@dataclass
class Tally:
    """What was measured of one set of samples, group by group.

    Attributes:
        moments: Packed moments of the coordinates, one row per group.
        statistics: Sums of the picture statistics, one row per group.
        counts: Samples per group, shape ``(G,)``.
        squared: Squared errors per sample of every group; empty for a set without a converged solution.
        coordinates: Coordinates of the first :data:`NEIGHBOURS` samples.
        calls: Network calls per sample, as counted.
    """

    moments: Array
    statistics: Array
    counts: Array
    squared: list[Array]
    coordinates: Array
    calls: float


@dataclass
class _Group:
    """What was measured of one group, while its batches are read."""

    moments: Moments
    statistics: Array = field(default_factory=lambda: np.zeros(len(PICTURE_STATISTICS)))
    calls: float = 0.0
    squared: list[Array] = field(default_factory=list)
    coordinates: list[Array] = field(default_factory=list)


@dataclass(kw_only=True)
class Measurer:
    """Draws and measures, with every finished batch in a journal.

    Attributes:
        source: Draws the samples.
        extractor: Gives features of pictures; without one only errors are measured.
        space: Space in which distances are measured, or None.
        journal: Keeps the batches.
        say: Called with (what is being done, done, total).
        keep: Whether converged samples stay in the journal, for samplers that are measured another time.
    """

    source: Source
    extractor: Extractor | None
    space: FeatureSpace | None
    journal: Journal
    say: Callable[[str, int, int], None]
    keep: bool = False

    @property
    def dimensions(self) -> int:
        """Coordinates per sample; 0 if no distances are measured."""
        return 0 if self.space is None else self.space.dimensions

    def features(self, samples: Tensor) -> Tensor:
        """Features ``(B, d)`` of samples; latents are decoded first."""
        if self.extractor is None:
            return torch.empty(len(samples), 0)
        return self.extractor(self.source.pictures(samples))

    def _seen(self, samples: Tensor) -> dict[str, Array]:
        """Coordinates and statistics of samples."""
        if self.extractor is None or self.space is None:
            return {"coordinates": np.empty((len(samples), 0)), "statistics": np.zeros((len(samples), 0))}
        pictures = self.source.pictures(samples)
        coordinates = self.space.project(self.extractor(pictures))
        return {"coordinates": coordinates.astype(np.float32), "statistics": picture_statistics(pictures)}

    def teacher(self, name: str, seeds: range, batch_size: int) -> Tally:
        """Tally of converged samples from ``seeds``."""
        groups, place = split_batches(seeds, batch_size), name + "/{}"
        ours, done = [batch for group in mine(groups) for batch in group], 0
        for batch in ours:
            self.journal(place.format(number_of(batch, seeds)), lambda b=batch: self._teacher(b))  # type: ignore[misc]
            done += len(batch)
            self.say(name, done, sum(map(len, ours)))
        return self._tally(place, seeds, groups, compared=False)

    def _teacher(self, batch: range) -> dict[str, Any]:
        samples, _, calls = self.source.batch(batch).converged(check=0)
        return {**self._seen(samples), "calls": np.array(calls)}

    def contest(self, seeds: range, batch_size: int, samplers: Mapping[Key, Any]) -> tuple[Tally, dict[Key, Tally]]:
        """Draw all batches; returns the tally of the converged samples, and the tallies of all samplers.

        Args:
            seeds: Evaluation seeds.
            batch_size: Samples per network call.
            samplers: The samplers, as the source takes them.
        """
        groups = split_batches(seeds, batch_size)
        ours = [batch for group in mine(groups) for batch in group]
        done, total = 0, sum(map(len, ours)) * len(samplers)
        for batch in ours:
            self._batch(batch, f"batches/{number_of(batch, seeds)}", samplers)
            done += len(batch) * len(samplers)
            self.say("evaluating", done, total)
        tallies = {
            key: self._tally(f"batches/{{}}/{_slug(key, one)}", seeds, groups, compared=True)
            for key, one in samplers.items()
        }
        return self._tally(_CONVERGED, seeds, groups, compared=False), tallies

    def _batch(self, batch: range, place: str, samplers: Mapping[Key, Any]) -> None:
        """Measure all samplers on one batch; the same sampler under several names is run once.

        Unless ``keep`` is set, the converged samples are dropped after the last sampler.
        """
        facts: dict[str, Any] = {}
        drawing, like = self.source.batch(batch), torch.empty(0, device=self.source.device)
        target: list[Tensor] = []
        seen: dict[str, dict[str, Any]] = {}

        def solve() -> Tensor:
            samples, error, calls = drawing.converged(check=max(1, len(batch) // 8))
            facts.update(error=np.array(error), calls=np.array(calls))
            return samples

        def converged() -> Tensor:
            if not target:
                target.append(self.journal.tensor(f"{place}/target", solve, like=like))
            return target[0]

        def teacher() -> dict[str, Any]:
            self.journal.discard(f"{place}/target")  # the facts below are of a solution that is made now
            samples = converged()
            return {**self._seen(samples), **facts}

        def run(one: Any) -> dict[str, Any]:
            same = _digest(one)
            if same in seen:
                return seen[same]
            samples, calls = drawing.drawn(one)
            found = {"squared": squared_errors(samples, converged()), "calls": np.array(calls)}
            made = {**self._seen(samples), **found}
            if same:
                seen[same] = made
            return made

        self.journal(f"{place}/teacher", teacher)
        for key, one in samplers.items():
            self.journal(f"{place}/{_slug(key, one)}", lambda one=one: run(one))  # type: ignore[misc]
        if not self.keep:
            self.journal.discard(f"{place}/target")

    def _read(self, place: str, batch: range, seeds: range) -> dict[str, Any]:
        return self.journal.read(place.format(number_of(batch, seeds)))

    def _tally(self, place: str, seeds: range, groups: list[list[range]], *, compared: bool) -> Tally:
        """Read the parts of one set by group; the processes share the groups. ``place`` names a part by its number."""
        found: dict[int, _Group] = {}
        for number in mine(range(len(groups))):
            group = found[number] = _Group(Moments(self.dimensions))
            for batch in groups[number]:
                part = self._read(place, batch, seeds)
                coordinates = part["coordinates"].astype(np.float64)
                group.moments.add(coordinates)
                group.statistics = group.statistics + part["statistics"].sum(0) if self.space else group.statistics
                group.calls += float(part["calls"])
                group.squared += [part["squared"]] if compared else []
                if batch.start - seeds.start < NEIGHBOURS:
                    group.coordinates.append(coordinates[: NEIGHBOURS - (batch.start - seeds.start)])
        sizes = [sum(map(len, group)) for group in groups]
        whole = [
            max(0, min(size, NEIGHBOURS - (group[0].start - seeds.start)))
            for group, size in zip(groups, sizes, strict=True)
        ]
        d, s = self.dimensions, len(PICTURE_STATISTICS)

        def shared(value: Callable[[_Group], Array], shapes: list[tuple[int, ...]]) -> list[Array]:
            return gather({number: value(group) for number, group in found.items()}, shapes)

        packed = shared(lambda g: g.moments.pack(), [Moments(d).pack().shape] * len(groups))
        statistics = shared(lambda g: g.statistics, [(s,)] * len(groups))
        calls = shared(lambda g: np.array([g.calls]), [(1,)] * len(groups))
        near = shared(lambda g: np.concatenate(g.coordinates or [np.empty((0, d))]), [(n, d) for n in whole])
        squared = shared(lambda g: np.concatenate(g.squared), [(n,) for n in sizes]) if compared else []
        return Tally(
            moments=np.stack(packed),
            statistics=np.stack(statistics),
            counts=np.array(sizes, np.float64),
            squared=squared,
            coordinates=np.concatenate(near),
            calls=float(np.sum(calls)) / len(seeds),
        )

    def reference_error(self, seeds: range, batch_size: int) -> float:
        """Root-mean-square error that the converged solutions of :meth:`contest` estimated for themselves."""
        groups = split_batches(seeds, batch_size)
        found = {
            n: np.array([float(self._read(_CONVERGED, batch, seeds)["error"]) ** 2 for batch in groups[n]])
            for n in mine(range(len(groups)))
        }
        squares = np.concatenate(gather(found, [(len(group),) for group in groups]))
        return float(np.sqrt(np.nanmean(squares)))  # a source may leave batches out


def number_of(batch: range, seeds: range) -> str:
    """Number of a batch in the names of its parts: its first seed, counted from the first of all seeds."""
    return f"{batch.start - seeds.start:08d}"


def _digest(one: Any) -> str:
    """Digest of a sampler: equal samplers draw the same samples. Empty for a function that has none."""
    return table_digest(one) if isinstance(one, SolverTable) else str(getattr(one, "digest", ""))


def _slug(key: Key, one: Any) -> str:
    """Name of a sampler's parts; its digest is added, because another study may give the name another sampler."""
    same = _digest(one)
    return f"{key[0]}-{key[1]}" + (f"-{same[:8]}" if same else "")
