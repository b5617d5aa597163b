r"""Hard samples: of many fresh samples those whose reference solution is worth its network calls.

A reference solution costs many times what a run costs. But a sample that a table loses and its base does not shows
without it. With the samples :math:`x_T` of the table and :math:`x_B` of the base, and the reference :math:`x^*`,

.. math:: \|x_T - x^*\| \ge q\, \|x_B - x^*\| \;\Rightarrow\; \|x_T - x_B\| \ge (q - 1)\, \|x_B - x^*\|.

So a pool of fresh samples is run with both tables. The reference is solved for those alone whose two samples differ
most. Which share of the pool they are is known. With the calibration's own samples, of which most differ less, they
tell of all samples: either kind counts as much as its share of the pool. Of a thousand samples a few are lost. Now
these few are seen, at the cost of some sixty references.

References:
    Neyman, Contribution to the theory of sampling human populations, 1938 (two-phase sampling, strata).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from longstride.arrays import Array, infinite_for_nan
from longstride.calibration.converged import solved
from longstride.calibration.fresh import conditions, fresh
from longstride.calibration.reference.solve import squared_errors
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch, Units
from longstride.guard.statistics import Recorder, names
from longstride.journal import table_digest
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["Pool", "Runs", "hard_samples", "mined", "runs"]


def hard_samples(count: int, part: float) -> int:
    """Number of hard samples of a pool of ``count`` samples, of which ``part`` are: at least one."""
    return max(1, int(part * count))


@dataclass(frozen=True)
class Runs:
    """What runs of a table and its base gave.

    Attributes:
        statistics: Statistics of the table's runs, ``(B, F)``.
        apart: Squared difference of the two samples, ``(B,)``; infinite for NaN, as errors are.
        squared: Squared errors of the table, ``(B,)``; NaN without a reference solution.
        base: Squared errors of the base, ``(B,)``.
    """

    statistics: Array
    apart: Array
    squared: Array
    base: Array

    def of(self, part: slice | Array) -> Runs:
        """Some samples."""
        return Runs(self.statistics[part], self.apart[part], self.squared[part], self.base[part])

    def joined(self, other: Runs) -> Runs:
        """These samples and others."""
        return Runs(*(np.concatenate([getattr(self, one.name), getattr(other, one.name)]) for one in fields(self)))


def runs(samples: Samples, numbers: list[int], table: SolverTable, base: SolverTable) -> Runs:
    """Runs of a table and of its base on some units."""
    width = len(names(table.nfe)) + 3

    @torch.inference_mode()
    def run(batch: Batch) -> list[Array]:
        recorder = Recorder(table)
        ends = [Run(batch.noise, table).finish(batch.network, recorder), Run(batch.noise, base).finish(batch.network)]
        told = [infinite_for_nan(squared_errors(*ends))]
        if samples.reference is None:
            told += [np.full(len(batch), np.nan)] * 2
        else:
            targets = samples.targets(batch)
            told += [infinite_for_nan(squared_errors(end, targets)) for end in ends]
        return batch.split(np.column_stack([recorder.read(), *told]))

    name = f"pairs/{table_digest(table)[:20]}/{table_digest(base)[:20]}"
    found = np.concatenate(samples.map(name, numbers, run, lambda b: (b, width)))
    return Runs(found[:, :-3], found[:, -3], found[:, -2], found[:, -1])


@dataclass(frozen=True)
class Pool:
    """A pool of fresh samples.

    Attributes:
        hard: Its hard samples, with their reference solution.
        places: Which samples of the calibration have their conditions, ``(m,)``.
        runs: Runs of the hard samples.
        cut: Least squared difference of the two samples of a hard sample.
        others: Statistics of the other samples, ``(B, F)``.
    """

    hard: Samples
    places: torch.Tensor
    runs: Runs
    cut: float
    others: Array

    @property
    def share(self) -> float:
        """Share of hard samples in the pool."""
        return len(self.hard) / (len(self.hard) + len(self.others))

    def weights(self, apart: Array) -> tuple[Array, Array]:
        """Weights with which other samples and the hard samples together tell of all samples; those of others sum to
        their number with those of the hard samples.

        Args:
            apart: Squared differences of samples that were drawn like the pool, ``(B,)``.

        Returns:
            Weights of these samples ``(B,)``, and of the hard samples ``(m,)``.
        """
        above = apart >= self.cut
        above &= not above.all()  # then hard samples alone tell of their share
        tail = len(apart) * self.share / (above.sum() + len(self.hard))
        rest = len(apart) * (1 - self.share) / (~above).sum()
        return np.where(above, tail, rest), np.full(len(self.hard), tail)


def mined(samples: Samples, table: SolverTable, base: SolverTable, purpose: str, count: int, part: float) -> Pool:
    """A pool of fresh samples; its network calls are counted as those of ``samples``.

    Args:
        samples: Samples of the calibration.
        table: The fitted table.
        base: Its base.
        purpose: Two purposes have different noise.
        count: Number of samples of the pool.
        part: Share of hard samples, between 0 and 1.
    """
    pool = fresh(samples, purpose, count)
    found = runs(pool, pool.units.all, table, base)
    order = np.argsort(-found.apart, kind="stable")
    most = hard_samples(count, part)
    index = torch.from_numpy(np.sort(order[:most]))
    folder = pool.journal.folder
    hard = replace(
        pool, network=pool.network.select(index), noise=pool.noise[index], units=Units(most, 0, pool.units.size)
    )
    hard = solved(hard.kept(None if folder is None else folder / "hard"), whole=False)
    own = runs(hard, hard.units.all, table, base)
    samples.charge(pool)
    samples.charge(hard)
    cut, others = float(found.apart[order[most - 1]]), found.statistics[np.sort(order[most:])]
    return Pool(hard, conditions(samples, count)[index], own, cut, others)
