"""Error and Fréchet distance against network calls, for base and calibrated solvers on one model.

Everything is measured on noise that calibration did not see, from the same noise for every solver: root-mean-square
and median per-sample error to the converged ODE solution, and the Fréchet distance to those converged samples as a
set. An independent set of the teacher's samples, from other noise, gives that distance its yardstick.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longstride.calibration import Calibration, calibrate, solve_reference
from longstride.errors import InputError
from longstride.evaluation.frechet import FeatureNet, FrechetSpace, frechet_distance
from longstride.grid import Final, grid
from longstride.sampler import sample
from longstride.solvers import build, steps_for_nfe
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["CONTESTANTS", "Purpose", "Study", "base_table", "run_study", "seed_range"]

#: What noise is for; seeds of different purposes never meet.
Purpose = Literal["calibration", "evaluation", "teacher"]
_PURPOSES: tuple[Purpose, ...] = ("calibration", "evaluation", "teacher")
_BLOCK = 1_000_000

#: Name of every contestant, its classical solver, that solver's options, and whether it is calibrated.
CONTESTANTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "ddim": ("ddim", {}, False),
    "iia_ddim": ("ddim", {}, True),
    "spndm": ("spndm", {}, False),
    "iia_spndm": ("spndm", {}, True),
    "ipndm": ("ipndm", {}, False),
    "iia_ipndm": ("ipndm", {}, True),
    "dpmpp_2m": ("dpmpp_2m", {}, False),
    "unipc": ("unipc", {"order": 3}, False),
}


def seed_range(purpose: Purpose, seed: int, count: int) -> range:
    """Seeds of ``count`` samples: every (purpose, seed) has a block of its own.

    Raises:
        InputError: more samples than a block holds, or a seed beyond the last block.
    """
    if count > _BLOCK:
        raise InputError(f"at most {_BLOCK:,} samples have seeds of their own, got {count:,}")
    first = (seed * len(_PURPOSES) + _PURPOSES.index(purpose)) * _BLOCK
    if first + count > 2**32:  # a CPU generator keeps 32 bits of its seed
        raise InputError(f"seed must be at most {2**32 // (len(_PURPOSES) * _BLOCK) - 1}, got {seed}")
    return range(first, first + count)


@dataclass(frozen=True)
class Study:
    """What is compared, and on how many samples.

    Attributes:
        nfes: Network calls per sample.
        grid: Grid of all solvers.
        final: Last level of the grid.
        samples: Evaluation samples, and as many for the teacher's reference set.
        batch_size: Samples per network call.
        calibration_samples: Samples that calibration sees; half of them decide what is accepted.
        r: IIA's r.
        substeps: IIA's M.
        reference_steps: Steps of the converged solution (UniPC-3).
        dimensions: Principal components of the Fréchet distance; 0 leaves it out.
        guidance: Classifier-free guidance scale, or None.
        seed: Shifts every seed.
    """

    nfes: tuple[int, ...] = (5, 6, 8, 10, 15, 20)
    grid: str = "uniform"
    final: Final = "sigma_min"
    samples: int = 1024
    batch_size: int = 64
    calibration_samples: int = 128
    r: int = 1
    substeps: int = 10
    reference_steps: int = 64
    dimensions: int = 64
    guidance: float | None = None
    seed: int = 0


@dataclass
class _Tally:
    """Streaming results of one contestant at one number of calls."""

    squared: list[Tensor] = field(default_factory=list)
    coordinates: list[Tensor] = field(default_factory=list)

    def add(self, samples: Tensor, target: Tensor) -> None:
        self.squared.append((samples.double() - target.double()).square().flatten(1).mean(1).cpu())

    def row(self, teacher: Tensor | None) -> dict[str, float]:
        squared = torch.cat(self.squared)
        row = {"rmse": float(squared.mean().sqrt()), "median": float(squared.sqrt().median())}
        if teacher is not None:
            row["fd"] = frechet_distance(teacher, torch.cat(self.coordinates))
        return row


def base_table(model: Model, solver: str, nfe: int, study: Study, **options: Any) -> SolverTable:
    """The classical solver that spends exactly ``nfe`` calls on the study's grid."""
    steps = steps_for_nfe(solver, nfe, final_zero=study.final == "zero", **options)
    sigmas = grid(study.grid, steps, schedule=model.schedule, final=study.final)
    return build(solver, sigmas, schedule=model.schedule, **options)


def run_study(
    model: Model,
    study: Study,
    *,
    say: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[dict[str, Any], dict[tuple[str, int], SolverTable], dict[tuple[str, int], Calibration]]:
    """Calibrate and compare all of :data:`CONTESTANTS`.

    Args:
        model: The pretrained model.
        study: What to compare.
        say: Called with (what is being done, done, total).

    Returns:
        The results (plain data for JSON), the table of every (contestant, nfe), and the calibrations.

    Raises:
        InputError: fewer samples than the Fréchet distance has dimensions.
    """
    if study.dimensions >= study.samples:
        raise InputError(f"a Fréchet distance in {study.dimensions} dimensions needs more than {study.samples} samples")
    tables = {
        (name, nfe): base_table(model, solver, nfe, study, **options)
        for name, (solver, options, _) in CONTESTANTS.items()
        for nfe in study.nfes
    }
    wanted = {key: table for key, table in tables.items() if CONTESTANTS[key[0]][2]}
    calibrations = _calibrate_all(model, study, wanted, say)
    tables |= {key: calibration.table for key, calibration in calibrations.items()}
    any_table = next(iter(tables.values()))
    features = FeatureNet(model.device) if study.dimensions else None
    other = None if features is None else _teacher_features(model, study, any_table, features, say)
    space = None if other is None else FrechetSpace(other, study.dimensions)
    tallies = {key: _Tally() for key in tables}
    teacher: list[Tensor] = []
    reference_errors: list[float] = []
    total, done, reference_nfe = len(tables) * study.samples, 0, 0
    for seeds in _chunks(seed_range("evaluation", study.seed, study.samples), study.batch_size):
        noise, denoiser = model.noise(seeds, any_table.sigmas[0]), model.denoiser(seeds, study.guidance)
        target = solve_reference(denoiser, noise, any_table, steps=study.reference_steps)
        reference_errors.append(target.error)
        reference_nfe = target.nfe
        if features is not None and space is not None:
            teacher.append(space.project(features(target.samples)))
        for key, table in tables.items():
            result = sample(denoiser, noise, table)
            tallies[key].add(result, target.samples)
            if features is not None and space is not None:
                tallies[key].coordinates.append(space.project(features(result)))
            done += len(seeds)
            say("evaluating", done, total)
    real = torch.cat(teacher) if teacher else None
    rows = [
        {"solver": key[0], "nfe": key[1], **tallies[key].row(real), **_calibration_row(calibrations.get(key))}
        for key in tables
    ]
    distance = None
    if space is not None and other is not None and real is not None:
        distance = {
            "features": "EfficientNet-Lite0",
            "to": "the converged samples from the same noise",
            "other_noise": frechet_distance(real, space.project(other)),
        }
    results = {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "study": {**asdict(study), "nfes": list(study.nfes)},
        "reference": {
            "solver": "unipc, order 3",
            "nfe": reference_nfe,
            "error": float(np.sqrt(np.mean(np.square(reference_errors)))),
        },
        "fd": distance,
        "rows": rows,
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "device": str(model.device)},
    }
    return results, tables, calibrations


def _chunks(seeds: range, size: int) -> Iterator[range]:
    for begin in range(0, len(seeds), size):
        yield seeds[begin : begin + size]


def _calibration_row(calibration: Calibration | None) -> dict[str, Any]:
    if calibration is None:
        return {}
    return {
        "accepted": calibration.end.accepted,
        "accepted_steps": f"{sum(row.accepted for row in calibration.rows)}/{len(calibration.rows)}",
        "calibration_calls": calibration.calls,
        "fit_calls_per_sample_and_step": calibration.fit_calls,
    }


def _calibrate_all(
    model: Model,
    study: Study,
    wanted: Mapping[tuple[str, int], SolverTable],
    say: Callable[[str, int, int], None],
) -> dict[tuple[str, int], Calibration]:
    """Calibrate every wanted table; one noise and one converged solution serve all of them."""
    seeds = seed_range("calibration", study.seed, study.calibration_samples)
    held_out = seeds[len(seeds) // 2 :]
    denoiser = model.denoiser(seeds, study.guidance)
    any_table = next(iter(wanted.values()))
    noise = model.noise(seeds, any_table.sigmas[0])
    say("calibrating", 0, len(wanted))
    reference = solve_reference(
        model.denoiser(held_out, study.guidance),
        noise[len(seeds) // 2 :],
        any_table,
        steps=study.reference_steps,
        batch_size=study.batch_size,
    )
    found: dict[tuple[str, int], Calibration] = {}
    for key, table in wanted.items():
        found[key] = calibrate(
            denoiser,
            noise,
            table,
            reference=reference,
            held_out=len(held_out),
            batch_size=study.batch_size,
            model=model.info(study.guidance),
            seed=study.seed,
            r=study.r,
            substeps=study.substeps,
        )
        say("calibrating", len(found), len(wanted))
    return found


def _teacher_features(
    model: Model, study: Study, table: SolverTable, features: FeatureNet, say: Callable[[str, int, int], None]
) -> Tensor:
    """Features ``(samples, d)`` of the teacher's converged samples from noise that nothing else uses."""
    found, all_seeds = [], seed_range("teacher", study.seed, study.samples)
    for seeds in _chunks(all_seeds, study.batch_size):
        noise, denoiser = model.noise(seeds, table.sigmas[0]), model.denoiser(seeds, study.guidance)
        solution = solve_reference(denoiser, noise, table, steps=study.reference_steps, check_samples=0)
        found.append(features(solution.samples))
        say("teacher samples", seeds.stop - all_seeds.start, study.samples)
    return torch.cat(found)
