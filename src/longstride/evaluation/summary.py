"""From tallies to numbers with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from longstride.arrays import Array
from longstride.evaluation.bootstrap import Interval, bootstrap_samples, group_bootstrap
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.evaluation.measure import Key, Tally
from longstride.evaluation.reference_set import ReferenceSet
from longstride.evaluation.results import Line
from longstride.evaluation.statistics import (
    PICTURE_STATISTICS,
    density_coverage,
    precision_recall,
)

__all__ = ["MEASURES", "Summary"]


#: What is measured, and what it means. The teacher is the converged solution.
MEASURES: dict[str, str] = {
    "rmse": "root-mean-square error to the converged solution from the same noise",
    "median": "median over samples of the root-mean-square error of one sample",
    "worse": "share of samples whose error is more than the base's from the same noise",
    "worse_2": "share of samples whose error is more than 2 times the base's from the same noise",
    "worse_4": "share of samples whose error is more than 4 times the base's from the same noise",
    "largest": "largest root-mean-square error of a sample",
    "calls": "network evaluations per sample, of samples that a guard's base made again, too",
    "fd_teacher": "Fréchet distance to the converged samples from the same noise",
    "fd_real": "Fréchet distance to real pictures",
    "density": "density: how deep samples lie among real pictures (or the teacher's, if there are none)",
    "coverage": "coverage: share of real pictures that have a sample near them (or of the teacher's)",
    "precision": "precision: share of samples among real pictures (or the teacher's)",
    "recall": "recall: share of real pictures among samples (or of the teacher's)",
    **{f"{name}_ratio": f"mean {name}, over the converged samples' own" for name in PICTURE_STATISTICS[1:]},
    "brightness_shift": "mean brightness, less the converged samples' own",
}
#: Replicates of a bootstrap: a Fréchet distance takes about a millisecond.
_MANY, _FEW = 1000, 200
#: The largest number of groups in which errors are resampled.
_SINGLE = 2000


@dataclass
class Summary:
    """The numbers of one study.

    Attributes:
        model: Name of the model.
        guidance: Guidance scale, or None.
        bases: Base of every contestant, or None.
        teacher: Tally of the converged samples from the same noise.
        other: Tally of converged samples from other noise, or None.
        real: Real pictures, or None.
        teacher_nfe: Network evaluations of the converged solution.
        cost: Forward passes per evaluation.
        tails: Whether the shares of samples that are worse than the base's, and much worse, are told, too.
    """

    model: str
    guidance: float | None
    bases: Mapping[str, str | None]
    teacher: Tally
    other: Tally | None
    real: ReferenceSet | None
    teacher_nfe: int
    cost: int
    tails: bool = True

    def lines(self, tallies: Mapping[Key, Tally]) -> list[Line]:
        """All lines: the teacher's own, then every contestant's."""
        found = self._teacher_lines()
        for (name, nfe), tally in tallies.items():
            base = self.bases[name]
            found += self._contestant(name, nfe, tally, base, None if base is None else tallies.get((base, nfe)))
        return found

    def _line(
        self,
        name: str,
        nfe: int,
        measure: str,
        found: Interval,
        base: str | None = None,
        change: Interval | None = None,
    ) -> Line:
        differ = (None, None, None) if change is None else (change.value, change.low, change.high)
        interval = (found.value, found.low, found.high)
        return Line(self.model, self.guidance, name, base, nfe, nfe * self.cost, measure, *interval, *differ)

    def _teacher_lines(self) -> list[Line]:
        if not self._dimensions:
            return []
        found = []
        if self.other is not None:
            distance = self._distance(self.other)
            found.append(self._line("teacher", self.teacher_nfe, "fd_teacher", distance))
        if self.real is not None:
            found.append(self._line("teacher", self.teacher_nfe, "fd_real", self._to_real(self.teacher)))
        for measure, value in self._neighbours(self.teacher).items():
            found.append(self._line("teacher", self.teacher_nfe, measure, Interval(value, None, None)))
        return found

    def _contestant(self, name: str, nfe: int, tally: Tally, base: str | None, other: Tally | None) -> list[Line]:
        found: list[Line] = []

        def add(measure: str, value: Interval, change: Interval | None = None) -> None:
            found.append(self._line(name, nfe, measure, value, base if change is not None else None, change))

        squared = np.concatenate(tally.squared)
        rmse = group_bootstrap(lambda s: float(np.sqrt(s[0] / s[1])), _sums(_single(squared)), replicates=_MANY)
        median = bootstrap_samples(lambda s: float(np.median(np.sqrt(s))), _single(squared), replicates=_MANY)
        if other is None:
            add("rmse", rmse)
            add("median", median)
        else:
            pairs = _single(np.stack([squared, np.concatenate(other.squared)], axis=1))
            add("rmse", rmse, group_bootstrap(_rmse_change, _sums(pairs), replicates=_MANY))
            add("median", median, bootstrap_samples(_median_change, pairs, replicates=_MANY))
            for times in (1, 2, 4) if self.tails else ():
                worse = (squared > times**2 * np.concatenate(other.squared)).astype(np.float64)
                name_of_share = "worse" if times == 1 else f"worse_{times}"
                add(name_of_share, group_bootstrap(_share, _sums(_single(worse)), replicates=_MANY))
        add("largest", Interval(float(np.sqrt(squared.max())), None, None))
        add("calls", Interval(tally.calls / self.cost, None, None))
        if not self._dimensions:
            return found
        add("fd_teacher", self._distance(tally), None if other is None else self._distance_change(tally, other))
        if self.real is not None:
            add("fd_real", self._to_real(tally), None if other is None else self._to_real_change(tally, other))
        for measure, value in self._neighbours(tally).items():
            add(measure, Interval(value, None, None))
        for n, statistic in enumerate(PICTURE_STATISTICS):
            ratios = np.stack([tally.statistics[:, n], self.teacher.statistics[:, n]], axis=1)
            if statistic == "brightness":
                shifts = np.concatenate([ratios, tally.counts[:, None]], axis=1)
                add(
                    "brightness_shift", group_bootstrap(lambda s: float((s[0] - s[1]) / s[2]), shifts, replicates=_MANY)
                )
            elif ratios[:, 1].sum() > 0:
                add(f"{statistic}_ratio", group_bootstrap(lambda s: float(s[0] / s[1]), ratios, replicates=_MANY))
        return found

    @property
    def _dimensions(self) -> int:
        return int(self.teacher.coordinates.shape[1])

    def _moments(self, packed: Array) -> Moments:
        return Moments.unpack(packed, self._dimensions)

    def _bootstrap(self, statistic: Callable[[list[Moments]], float], *tallies: Tally) -> Interval:
        """Interval of a statistic of several sets' moments; groups with the same seeds are resampled together."""
        packed, width = np.concatenate([t.moments for t in tallies], axis=1), tallies[0].moments.shape[1]
        return group_bootstrap(
            lambda s: statistic([self._moments(part) for part in np.split(s, len(s) // width)]),
            packed,
            replicates=_FEW,
        )

    def _distance(self, tally: Tally) -> Interval:
        if len(tally.moments) != len(self.teacher.moments):
            one, two = (self._moments(t.moments.sum(0)) for t in (tally, self.teacher))
            return Interval(frechet_distance(one, two), None, None)
        return self._bootstrap(lambda m: frechet_distance(m[0], m[1]), tally, self.teacher)

    def _distance_change(self, tally: Tally, base: Tally) -> Interval:
        def change(m: list[Moments]) -> float:
            return frechet_distance(m[0], m[2]) - frechet_distance(m[1], m[2])

        return self._bootstrap(change, tally, base, self.teacher)

    def _to_real(self, tally: Tally) -> Interval:
        assert self.real is not None
        real = self.real.moments
        return self._bootstrap(lambda m: frechet_distance(m[0], real), tally)

    def _to_real_change(self, tally: Tally, base: Tally) -> Interval:
        assert self.real is not None
        real = self.real.moments
        return self._bootstrap(lambda m: frechet_distance(m[0], real) - frechet_distance(m[1], real), tally, base)

    def _neighbours(self, tally: Tally) -> dict[str, float]:
        """Density, coverage, precision and recall against real pictures, or the teacher's pictures from other noise."""
        if self.real is not None:
            anchor = self.real.coordinates[: len(tally.coordinates)].astype(np.float64)
        elif self.other is not None:
            anchor = self.other.coordinates
        else:
            return {}
        if min(len(anchor), len(tally.coordinates)) < 10:
            return {}
        density, coverage = density_coverage(anchor, tally.coordinates)
        precision, recall = precision_recall(anchor, tally.coordinates)
        return {"density": density, "coverage": coverage, "precision": precision, "recall": recall}


def _single(samples: Array) -> list[Array]:
    """Every sample as a group, or groups of a few samples if there are very many samples."""
    return np.array_split(samples, min(len(samples), _SINGLE))


def _sums(groups: list[Array]) -> Array:
    """Per group the sum of every column, and the number of samples."""
    return np.array([[*np.atleast_1d(group.sum(0)), len(group)] for group in groups])


def _share(sums: Array) -> float:
    return float(sums[0] / sums[1])


def _rmse_change(sums: Array) -> float:
    return float(np.sqrt(sums[0] / sums[2]) - np.sqrt(sums[1] / sums[2]))


def _median_change(pairs: Array) -> float:
    return float(np.median(np.sqrt(pairs[:, 0])) - np.median(np.sqrt(pairs[:, 1])))
