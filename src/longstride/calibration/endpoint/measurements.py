"""Errors of tables on samples, and their derivatives: measured once, however often they are asked for.

If the samples alone are compared, the measurement of a table serves all tables that differ from it in the weights of
the last row alone (:mod:`longstride.calibration.endpoint.last_row`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double, infinite_for_nan
from longstride.calibration.endpoint.jacobian import linearised
from longstride.calibration.endpoint.last_row import LastRows, Terms
from longstride.calibration.endpoint.low_rank import LowRank
from longstride.calibration.endpoint.residuals import Residual
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.prefix_runs import finish_together
from longstride.calibration.samples import Samples
from longstride.calibration.units import Batch
from longstride.journal import digest, table_digest
from longstride.parameters import Parameters
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["Measurements"]


class Measurements:
    """Errors of tables on some samples, and normal equations of steps from them.

    Args:
        samples: All samples, with their reference solution.
        parameters: The free numbers.
        residual: The feature map.
        scales: Squared size that the squared residual of every sample is told in, shape ``(B,)``; default: 1.
        weights: Weights of the samples in the objective, shape ``(B,)``; default: all are equal.
    """

    def __init__(
        self,
        samples: Samples,
        parameters: Parameters,
        residual: Residual,
        scales: Array | None = None,
        weights: Array | None = None,
    ) -> None:
        self.samples, self.parameters, self.residual = samples, parameters, residual
        self.scales = np.ones(len(samples)) if scales is None else scales
        self.weights = np.ones(len(samples)) if weights is None else weights

    def scales_of(self, numbers: Sequence[int]) -> Array:
        """Scales of the samples of some units."""
        return self.samples.of_units(self.scales, numbers)

    def errors(self, table: SolverTable, numbers: Sequence[int]) -> Array:
        """Squared residual and squared error of every sample of some units, shape ``(B, 2)``; infinite for NaN.

        A table is measured once on every unit, in whatever form. If pixels alone are compared, one run measures all
        tables that differ in the last row alone.
        """
        table = self.parameters.prepared(table)
        if self.residual.plain:
            squared = self.last_rows(table, numbers).squared
            return np.stack([squared / self.scales_of(numbers), squared], 1)

        def measure(batch: Batch) -> list[Array]:
            with torch.inference_mode():
                end = Run(batch.noise, table).finish(batch.network)
            return batch.split(self._squared(end, self.samples.targets(batch)))

        name = f"errors/{self.residual.name}/{table_digest(table)[:20]}"
        found = np.concatenate(self.samples.map(name, numbers, measure, lambda b: (b, 2), again=True))
        return found / np.stack([self.scales_of(numbers), np.ones(len(found))], 1)

    def _squared(self, samples: Tensor, target: Tensor) -> Array:
        features = double(self.residual(samples) - self.residual(target)).square().sum(1)
        pixels = double(samples - target).square().flatten(1).mean(1)
        found: Array = torch.stack([features, pixels], 1).cpu().numpy()
        return infinite_for_nan(found)

    def last_rows(self, table: SolverTable, numbers: Sequence[int]) -> LastRows:
        """Squared errors of samples of some units under ``table``, and under it with any other last row."""
        terms = Terms.of(table, self.parameters)
        weights, n = terms.weights(table), len(terms)

        def measure(batch: Batch) -> list[Array]:
            target = self.samples.targets(batch)
            return batch.split(_packed(LastRows.measured(batch.network, batch.noise, table, terms, target), weights))

        seen = self.samples.map(_ends(terms, table), numbers, measure, lambda b: (b, _width(terms)), again=True)
        moved = [LastRows.unpack(one[:, :-n], n).moved(weights - one[0, -n:]) for one in seen]
        return LastRows.unpack(np.concatenate([rows.pack() for rows in moved]), n)

    def measure(self, tables: Iterable[SolverTable], numbers: Sequence[int]) -> None:
        """Measure tables on some units before :meth:`errors` asks; tables on the same levels share network calls."""
        if not self.residual.plain:
            return
        by_levels: dict[bytes, dict[str, SolverTable]] = {}
        for table in map(self.parameters.prepared, tables):
            levels = np.concatenate([table.sigmas, table.alphas]).tobytes()
            by_levels.setdefault(levels, {})[_ends(Terms.of(table, self.parameters), table)] = table
        for alike in by_levels.values():
            self._measure_alike(alike, numbers)

    def _measure_alike(self, tables: Mapping[str, SolverTable], numbers: Sequence[int]) -> None:
        """Measure tables on the same levels, by the names of their parts."""
        names = list(tables)
        terms = [Terms.of(table, self.parameters) for table in tables.values()]
        ends = np.cumsum([0, *map(_width, terms)]).tolist()

        def measure(batch: Batch) -> list[Array]:
            target, found = self.samples.targets(batch), list[Array]()
            together = max(1, self.samples.batch_size // len(batch))
            for begin in range(0, len(names), together):
                part = slice(begin, begin + together)
                runs = [Run(batch.noise, tables[name], keep=True) for name in names[part]]
                with torch.inference_mode():
                    finish_together(batch.network, runs)
                for run, one in zip(runs, terms[part], strict=True):
                    found.append(_packed(LastRows.of_run(run, one, target), one.weights(run.table)))
            return batch.split(np.concatenate(found, 1))

        for number, rows in self.samples.local(f"together/{digest(names)[:20]}", numbers, measure).items():
            for name, begin, end in zip(names, ends[:-1], ends[1:], strict=True):
                self.samples.hold(f"{name}/{number}", rows[:, begin:end])

    def equations(
        self, table: SolverTable, loss: Loss, numbers: Sequence[int], few: LowRank | None = None
    ) -> NormalEquations:
        """Weighted normal equations of a step from ``table``, over the fitted units ``numbers``.

        Args:
            table: The table.
            loss: The loss.
            numbers: Numbers of the units.
            few: Derivatives by a few directions; None: difference quotients of every number.
        """
        p = len(self.parameters)

        def products(batch: Batch) -> list[Array]:
            scales, weights = (torch.from_numpy(one[batch.numbers]) for one in (self.scales, self.weights))

            def root_weight(squared: Tensor) -> Tensor:
                own = scales.to(squared)
                return loss.root_weight(squared / own) / (own / weights.to(squared)).sqrt()

            found = linearised(
                batch.network,
                batch.noise,
                self.samples.targets(batch),
                table,
                self.parameters,
                self.residual,
                root_weight,
                self.samples.batch_size,
                few,
            )
            parts = batch.slices
            return [NormalEquations.of([one[part] for one in found.columns], found.left[part]).pack() for part in parts]

        how = () if few is None else (few.rank, few.spread)
        told = f"{self.residual.name}/{digest(self.scales, self.weights, *how)[:12]}/{loss.c2:.12e}"
        name = f"jacobian/{told}/{table_digest(table)[:20]}"
        parts = self.samples.map(name, numbers, products, lambda b: (p * p + p + 2,))
        return NormalEquations.unpack(np.sum(parts, axis=0), p)


def _ends(terms: Terms, table: SolverTable) -> str:
    """Name of what is known of the ends of tables that differ in the weights of the last row alone."""
    return f"ends/{terms.key(table)[:20]}"


def _width(terms: Terms) -> int:
    """Numbers per sample of :func:`_packed`: what :meth:`LastRows.pack` gives for t terms, and t weights."""
    return (len(terms) + 1) ** 2


def _packed(rows: LastRows, weights: Array) -> Array:
    """Measurements of the last row, and the weights that they were made at: other tables read them, too."""
    return np.concatenate([rows.pack(), np.tile(weights, (len(rows.squared), 1))], 1)
