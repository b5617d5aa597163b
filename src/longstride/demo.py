"""The demonstration: calibrate on the bundled model, compare with the classical solvers, show the pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from longstride.calibration import solve_reference
from longstride.errors import InputError
from longstride.evaluation.plots import LABELS, comparison, error_curves
from longstride.evaluation.study import Study, run_study, seed_range
from longstride.files import check_writable, write_atomically
from longstride.sampler import sample
from longstride.table import SolverTable
from longstride.zoo.model import Model

__all__ = ["run_demo"]


def run_demo(
    model: Model, study: Study, out: Path, *, say: Callable[[str, int, int], None] = lambda what, done, total: None
) -> dict[str, Any]:
    """Run ``study`` and write a folder: ``results.json``, ``error_vs_nfe.png``, ``comparison.png`` and the cards.

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
    results, tables, calibrations = run_study(model, study, say=say)
    try:
        (out / "cards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from None
    for (name, nfe), calibration in calibrations.items():
        calibration.card.save(out / "cards" / f"{name}_nfe{nfe}.json")
    say("drawing", 0, 2)
    error_curves(results, out / "error_vs_nfe.png")
    _draw_comparison(model, study, tables, out / "comparison.png")
    say("drawing", 2, 2)
    results["seconds"] = round(time.monotonic() - began, 1)
    write_atomically(out / "results.json", (json.dumps(results, indent=1, allow_nan=False) + "\n").encode())
    return results


def _draw_comparison(model: Model, study: Study, tables: dict[tuple[str, int], SolverTable], path: Path) -> None:
    """Rows of pictures from the same noise: classical and calibrated at the least NFE, and the converged solution."""
    nfe = min(study.nfes)
    seeds = seed_range("evaluation", study.seed, min(20, max(10, model.num_classes)))
    table = tables["ddim", nfe]
    noise, denoiser = model.noise(seeds, table.sigmas[0]), model.denoiser(seeds, study.guidance)
    reference = solve_reference(denoiser, noise, table, steps=study.reference_steps, check_samples=0)
    rows: list[tuple[str, torch.Tensor]] = [
        (f"{LABELS[name]}\n{nfe} calls", sample(denoiser, noise, tables[name, nfe]))
        for name in ("ddim", "iia_ddim", "ipndm", "iia_ipndm")
    ]
    rows.append((f"{LABELS['reference']}\n{reference.nfe} calls", reference.samples))
    comparison(rows, path, title="Same network, same noise")
