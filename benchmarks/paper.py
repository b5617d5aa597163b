"""The paper's kind of table on every model at hand: base against calibrated solvers, against network calls.

Each case is a study of its own, with a folder of its own, and goes on after a kill. The paper claims its gains below 25
calls: there every contestant draws many samples. At 25 and 50 calls every contestant draws fewer, with a cheaper
calibration, to show that nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.markdown import slug_of
from benchmarks.universal import only
from longstride.demo import draw_comparison
from longstride.evaluation.contestants import paper
from longstride.evaluation.fitting import Say
from longstride.evaluation.plots import effect_curves
from longstride.evaluation.results import Results, save_results
from longstride.evaluation.runner import run_study
from longstride.evaluation.study import Study
from longstride.processes import is_first
from longstride.zoo import Model

__all__ = ["CASES", "Case", "cases", "run_case"]


@dataclass(frozen=True)
class Case:
    """A model in one setting.

    Attributes:
        slug: Name of its files.
        title: For people.
        model: As for :func:`~longstride.load_model`.
        guidance: Classifier-free guidance scale, or None.
        samples: Evaluation samples up to 10 calls; a quarter of them above.
        batch_size: Samples per network call.
        calibration_samples: Samples to fit and decide on, up to 10 calls; half of them above.
    """

    slug: str
    title: str
    model: str
    guidance: float | None = None
    samples: int = 512
    batch_size: int = 16
    calibration_samples: int = 64

    def studies(self, quick: bool) -> dict[str, Study]:
        """The studies by name: ``few`` calls and, in the full form, ``many``."""
        few = Study(
            contestants=paper(self.guidance is not None),
            nfes=(5, 6, 8, 10),
            samples=self.samples,
            batch_size=self.batch_size,
            calibration_samples=self.calibration_samples,
            guidance=self.guidance,
        )
        if quick:
            small = {"nfes": (5, 8), "samples": 48, "batch_size": 12, "calibration_samples": 24, "substeps": 4}
            return {"few": replace(few, **small, reference_steps=32, dimensions=16)}  # type: ignore[arg-type]
        fewer: dict[str, Any] = {
            "samples": self.samples // 4,
            "calibration_samples": self.calibration_samples // 2,
            "dimensions": 0,
        }
        return {"few": few, "many": replace(few, nfes=(25, 50), substeps=4, reference_steps=128, **fewer)}


#: The models of the documentation, in its order.
CASES = (
    Case("garments", "Garments (bundled, 28 × 28)", "garments", calibration_samples=128),
    Case("garments_guided", "Garments, guidance 3", "garments", guidance=3.0, samples=256, calibration_samples=32),
    Case("cifar10", "CIFAR-10 (trained here, EDM, 32 × 32)", "cifar10", samples=256),
    Case("galaxy_hsc32", "Galaxies (third-party, 32 × 32)", "galaxy:hsc32", calibration_samples=128),
    Case("galaxy_hsc64", "Galaxies (third-party, 64 × 64)", "galaxy:hsc64", samples=256, calibration_samples=32),
)


def cases(
    models: list[str], guidance: float | None = None, samples: int | None = None, batch_size: int | None = None
) -> tuple[Case, ...]:
    """The documentation's cases, or those of the models that were named.

    Args:
        models: Slugs of the documentation's cases, or models as for :func:`~longstride.load_model`.
        guidance: Guidance scale of models that are no cases.
        samples: Evaluation samples; default: each case's own.
        batch_size: Samples per network call; default: each case's own.
    """
    known = {case.slug: case for case in CASES}
    chosen = [
        known[name] if name in known and guidance is None else Case(slug_of(name, guidance), name, name, guidance)
        for name in models
    ] or list(CASES)
    changes: dict[str, Any] = {"samples": samples, "batch_size": batch_size}
    changes = {key: value for key, value in changes.items() if value is not None}
    return tuple(replace(case, **changes) for case in chosen)


def run_case(case: Case, model: Model, out: Path, pictures: Path, *, quick: bool, say: Say) -> dict[str, Results]:
    """Run the studies of a case and write results and pictures; finished studies are read from their journals.

    Args:
        case: The case.
        model: Its model.
        out: Folder of the results files; ``work`` in it holds finished batches.
        pictures: Folder of the plots.
        quick: Whether to draw few samples.
        say: Called with (what is being done, done, total).
    """
    found: dict[str, Results] = {}
    for name, study in case.studies(quick).items():
        slug = case.slug if name == "few" else f"{case.slug}_{name}"

        def told(what: str, done: int, total: int, slug: str = slug) -> None:
            say(f"{slug}: {what}", done, total)

        with only({}, ""):  # universal tables of the package saw these networks
            outcome = run_study(model, study, out / "work" / (f"{slug}-quick" if quick else slug), say=told)
        found[name] = outcome.results
        if not is_first():
            continue
        save_results(outcome.results, out / f"{slug}.json")
        if name == "few":
            pictures.mkdir(parents=True, exist_ok=True)
            measures = ("rmse", "fd_teacher", "fd_real")
            effect_curves(outcome.results, pictures / f"{slug}_error_vs_nfe.png", measures=measures, title=case.title)
            draw_comparison(model, study, outcome.tables, pictures / f"{slug}_comparison.png")
    return found
