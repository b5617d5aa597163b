"""A bench for single questions: one model, one set of fresh noise, and the converged solution from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.markdown import slug_of
from longstride.calibration import Calibration, Reference, calibrate
from longstride.calibration.converged import solved
from longstride.calibration.method import as_data
from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.calibration.rowwise.directions import DIRECTIONS
from longstride.calibration.samples import Samples
from longstride.denoiser import Denoiser
from longstride.errors import InputError
from longstride.evaluation.bootstrap import group_bootstrap
from longstride.evaluation.contestants import base_table
from longstride.evaluation.runner import measure_samplers
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.study import Study
from longstride.journal import Journal, digest, table_digest
from longstride.processes import gather, mine
from longstride.reports import Errors
from longstride.sampler import sample
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["Lab", "reapply"]

Array = NDArray[np.float64]
_BATCH = 32


class Lab:
    """Calibrates and measures on one model.

    Args:
        model: The model.
        folder: Where finished parts are kept.
        samples: Evaluation samples.
        batch: Samples that are fitted, unless said otherwise.
        held_out: Samples that decide.
        guidance: Guidance scale, or None.
        classes: Classes to draw from; default: all.
        reference_steps: Steps of the converged solution.
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        *,
        samples: int,
        batch: int,
        held_out: int,
        guidance: float | None = None,
        classes: Sequence[int] = (),
        reference_steps: int = 64,
    ) -> None:
        self.model, self.folder, self.guidance, self.classes = model, folder, guidance, tuple(classes)
        self.samples, self.batch, self.held_out, self.reference_steps = samples, batch, held_out, reference_steps
        self._known: dict[str, Array] = {}
        about = {
            "model": model.fingerprint,
            "samples": samples,
            "reference_steps": reference_steps,
            "held_out": held_out,
        }
        self._place = folder / f"{guidance}-{'_'.join(map(str, classes)) or 'all'}"
        self.journal = Journal(self._place, about)

    def guided(self, scale: float) -> Lab:
        """The same at a guidance scale."""
        return self._other(guidance=scale)

    def of_classes(self, classes: Iterable[int]) -> Lab:
        """The same on some classes."""
        return self._other(classes=tuple(classes))

    def of_model(self, model: Model) -> Lab:
        """The same on another model."""
        sizes: dict[str, Any] = {"samples": self.samples, "batch": self.batch, "held_out": self.held_out}
        return Lab(model, self.folder / slug_of(model.name), **sizes, reference_steps=self.reference_steps)

    def _other(self, **changes: Any) -> Lab:
        options = {"guidance": self.guidance, "classes": self.classes, "reference_steps": self.reference_steps}
        sizes = {"samples": self.samples, "batch": self.batch, "held_out": self.held_out}
        return Lab(self.model, self.folder, **{**sizes, **options, **changes})

    def table(self, base: str, nfe: int, grid: str = "auto") -> SolverTable:
        """A classical solver on the model's grid."""
        options: dict[str, Any] = {"order": 3} if base in ("unipc", "deis") else {}
        return base_table(self.model.schedule, base, nfe, grid=grid, exactly=False, **options)

    def denoiser(self, seeds: range) -> Denoiser:
        """The network for the samples of ``seeds``, of this lab's classes."""
        labels = None
        if self.classes:
            labels = torch.tensor([self.classes[seed % len(self.classes)] for seed in seeds])
        return self.model.denoiser(seeds, self.guidance, labels)

    def calibrate(
        self,
        table: SolverTable,
        *,
        batch: int | None = None,
        seed: int = 0,
        method: str = "iia",
        starts: Mapping[str, SolverTable] | None = None,
        **settings: Any,
    ) -> Calibration:
        """Calibrate a table; its batches are kept until the lab's folder is deleted."""
        fitted = self.batch if batch is None else batch
        # Held-out samples come first among the seeds, so that they are the same for every batch.
        seeds = seed_range("calibration", seed, self.held_out + fitted)
        order = [*range(self.held_out, len(seeds)), *range(self.held_out)]
        noise = self.model.noise(seeds, table.sigmas[0])[order]
        denoiser = self.denoiser(seeds)
        denoiser = denoiser.with_condition(
            **{key: value[order] for key, value in denoiser.condition.items() if isinstance(value, torch.Tensor)}
        )
        if method == "gauss_newton":  # the package's universal tables saw these networks
            settings = {"universal": False, **settings}
        begun = {name: table_digest(start) for name, start in (starts or {}).items()}
        said = as_data(settings)
        place = digest(table_digest(table), noise, said, method, begun)[:20]
        return calibrate(
            denoiser,
            noise,
            table,
            method=method,
            starts=starts,
            held_out=self.held_out,
            reference=self._reference(seed, denoiser, noise, table, fitted=method == "gauss_newton"),
            batch_size=_BATCH,
            model=self.model.info(self.guidance),
            seed=seed,
            journal=self._place / "calibration" / place,
            **settings,
        )

    def _reference(
        self, seed: int, denoiser: Denoiser, noise: torch.Tensor, table: SolverTable, *, fitted: bool
    ) -> Reference:
        """Converged solution of the held-out samples, which are the same for every batch and table, or of all."""
        count = len(noise)
        # Held-out samples come last. One must be fitted: a held-out one again, the same for every batch.
        index = torch.arange(count) if fitted else torch.tensor([count - 1, *range(count - self.held_out, count)])
        name = f"{seed}-{digest(table.sigmas[[0, -1]])[:12]}" + (f"-{count}" if fitted else "")
        samples = Samples.of(
            denoiser.select(index),
            noise[index],
            table,
            held_out=self.held_out,
            steps=self.reference_steps,
            batch_size=_BATCH,
        )
        reference = solved(samples.kept(self._place / "reference" / name), whole=fitted).reference
        assert reference is not None
        return reference

    @cached_property
    def _slices(self) -> list[range]:
        seeds = seed_range("evaluation", 0, self.samples)
        return [seeds[begin : begin + _BATCH] for begin in range(0, len(seeds), _BATCH)]

    def _per_batch(self, name: str, table: SolverTable) -> list[Array]:
        found = {}
        for n in mine(range(len(self._slices))):
            seeds = self._slices[n]

            def target(seeds: range = seeds) -> dict[str, Array]:
                noise, denoiser = self.model.noise(seeds, table.sigmas[0]), self.denoiser(seeds)
                solved = solve_reference(denoiser, noise, table, steps=self.reference_steps, check_samples=0)
                return {"samples": solved.samples.cpu().numpy()}

            def squared(seeds: range = seeds, n: int = n) -> dict[str, Array]:
                noise, denoiser = self.model.noise(seeds, table.sigmas[0]), self.denoiser(seeds)
                goal = torch.from_numpy(self.journal(f"target/{n}", target)["samples"]).to(noise)
                return {"squared": squared_errors(sample(denoiser, noise, table), goal)}

            found[n] = self.journal(f"{name}/{n}", squared)["squared"]
        return gather(found, [(len(seeds),) for seeds in self._slices])

    def squared(self, table: SolverTable) -> Array:
        """Squared error of every evaluation sample, shape ``(N,)``."""
        key = table_digest(table)[:20]
        if key not in self._known:
            self._known[key] = np.concatenate(self._per_batch(f"tables/{key}", table))
        return self._known[key]

    def errors(self, table: SolverTable) -> Errors:
        """Errors of a table on this lab's evaluation noise."""
        return Errors.of(self.squared(table))

    def distance(self, table: SolverTable) -> float | None:
        """Fréchet distance of a table's samples to the converged ones from the same noise; None: they are no pictures.

        Raises:
            InputError: the lab is of some classes alone.
        """
        if self.classes:
            raise InputError("Fréchet distances are of all classes: ask a lab without classes")
        try:
            self.model.check_pictures()
        except InputError:
            return None
        name = table_digest(table)[:20]
        study = Study(
            contestants=(),
            nfes=(table.nfe,),
            samples=self.samples,
            batch_size=_BATCH,
            reference_steps=self.reference_steps,
            dimensions=min(Study.dimensions, self.samples // 2),
            guidance=self.guidance,
        )
        place = self._place / "pictures"
        results = measure_samplers(self.model, study, table, {(name, table.nfe): table}, {name: None}, place, keep=True)
        return next(one.value for one in results.lines if (one.contestant, one.measure) == (name, "fd_teacher"))

    def compare(self, base: SolverTable, table: SolverTable) -> dict[str, Any]:
        """Errors of a base and of another table, and their ratio with its 95 % interval, from the same samples."""
        before, after = self.errors(base), self.errors(table)
        pairs = np.stack([self.squared(table), self.squared(base)], axis=1)
        ratio = group_bootstrap(lambda s: float(np.sqrt(s[0] / s[1])), pairs)
        return {
            "base_rmse": before.rmse,
            "rmse": after.rmse,
            "median": after.median,
            "base_median": before.median,
            "ratio": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }

    def record(
        self, base: str, nfe: int, *, batch: int | None = None, seed: int = 0, **settings: Any
    ) -> dict[str, Any]:
        """Calibrate a classical solver with some settings, and measure it."""
        table = self.table(base, nfe)
        found = self.calibrate(table, batch=batch, seed=seed, **settings)
        accepted = [row.accepted for row in found.rows]
        ungated = [row.held_out_error / max(row.held_out_base_error, 1e-12) for row in found.rows]
        return {
            "base": base,
            "nfe": table.nfe,
            **settings,
            "batch": self.batch if batch is None else batch,
            "seed": seed,
            **self.compare(table, found.table),
            "rows_kept": f"{sum(accepted)}/{len(accepted)}",
            "local_ratio": float(np.mean(ungated)),
            "calls_per_sample": found.fit_calls * (len(table.grid) - 1),
            "coefficients": [list(row.coefficients) for row in found.rows],
        }


def reapply(found: Calibration, base: SolverTable) -> SolverTable:
    """The accepted coefficients of a calibration, added to the rows of another base table."""
    settings = found.card.settings
    rows = list(base.rows)
    for report in found.rows:
        if not report.accepted:
            continue
        directions = DIRECTIONS[settings["directions"]](base, report.row, settings["r"])
        row = base.rows[report.row - 1]
        for weight, direction in zip(report.coefficients, directions.values(), strict=True):
            row = row + weight * direction
        rows[report.row - 1] = row.pruned()
    return replace(base, name="transferred", rows=tuple(rows), exact=False)
