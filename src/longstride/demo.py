"""The demonstration: calibrate on the bundled model, compare with the classical solvers, show the pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from longstride.calibration import solve_reference
from longstride.errors import InputError
from longstride.evaluation.contestants import label
from longstride.evaluation.plots import comparison, effect_curves
from longstride.evaluation.results import Results, save_results
from longstride.evaluation.runner import run_study
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.study import Study
from longstride.files import check_writable
from longstride.sampler import sample
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["draw_comparison", "run_demo"]


def run_demo(
    model: Model, study: Study, out: Path, *, say: Callable[[str, int, int], None] = lambda what, done, total: None
) -> Results:
    """Run ``study`` and write a folder: ``results.json`` and ``.parquet``, two pictures, and the cards.

    Args:
        model: The pretrained model.
        study: What to compare.
        out: Folder; made if missing.
        say: Called with (what is being done, done, total).

    Returns:
        The content of ``results.json``.

    Raises:
        InputError: the folder cannot be made or written, or the samples are no pictures.
    """
    began = time.monotonic()
    model.check_pictures()
    check_writable(out / "cards" / "card.json", new_folders=True)
    outcome = run_study(model, study, say=say)
    try:
        (out / "cards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from None
    for (name, nfe), card in outcome.cards.items():
        card.save(out / "cards" / f"{name}_nfe{nfe}.json")
    say("drawing", 0, 2)
    effect_curves(outcome.results, out / "error_vs_nfe.png")
    names = ("ddim", "iia_ddim", "unipc3", "gauss_newton")
    draw_comparison(model, study, outcome.tables, out / "comparison.png", names)
    say("drawing", 2, 2)
    about = {**outcome.results.about, "seconds": round(time.monotonic() - began, 1)}
    results = replace(outcome.results, about=about)
    save_results(results, out / "results.json")
    return results


def draw_comparison(
    model: Model,
    study: Study,
    tables: Mapping[tuple[str, int], SolverTable],
    path: Path,
    names: tuple[str, ...] = ("ddim", "iia_ddim", "ipndm", "iia_ipndm"),
) -> None:
    """Rows of pictures from the same noise: some samplers at the least number of calls, and the reference solution."""
    nfe = min(study.nfes)
    seeds = seed_range("evaluation", study.seed, min(20, max(10, model.num_classes)))
    shown = [(name, calls) for name, calls in tables if name in names and calls <= nfe]
    table = tables[shown[0]]
    noise, denoiser = model.noise(seeds, table.sigmas[0]), model.denoiser(seeds, study.guidance)
    reference = solve_reference(denoiser, noise, table, steps=study.reference_steps, check_samples=0)
    rows: list[tuple[str, torch.Tensor]] = [
        (f"{label(name)}\n{calls} calls", model.pictures(sample(denoiser, noise, tables[name, calls])))
        for name, calls in shown
    ]
    rows.append((f"converged\n{reference.nfe} calls", model.pictures(reference.samples)))
    comparison(rows, path, title="Same network, same noise")
