"""The command ``longstride demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch

from longstride.cli.common import console, handled, progress_bars, use_device
from longstride.cli.options import (
    CalibrationSamples,
    Device,
    Dimensions,
    Grid,
    Guidance,
    Json,
    ReferenceSteps,
    Samples,
    Seed,
    Substeps,
    option,
)
from longstride.cli.render import results_table
from longstride.demo import run_demo
from longstride.evaluation.study import Study
from longstride.zoo import load_model

__all__ = ["demo"]


@handled
def demo(
    out: Annotated[Path, option("Folder for results.json, the pictures and the cards.", "FOLDER")] = Path(
        "demo-output"
    ),
    model: Annotated[str, option("As in calibrate.", "MODEL")] = "garments",
    samples: Samples = 40,
    grid: Grid = "auto",
    guidance: Guidance = None,
    threads: Annotated[int, option("CPU threads; 0: all cores.", "N", min=0)] = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    # Quality and cost
    calibration_samples: CalibrationSamples = 64,
    substeps: Substeps = 4,
    reference_steps: ReferenceSteps = 32,
    # Fréchet distances
    dimensions: Dimensions = 16,
) -> None:
    """Calibrate on the bundled model, compare with the classical solvers, and draw what came out.

    Errors are distances to the converged ODE solution from the same noise, on noise that calibration did not see.
    """
    if threads:
        torch.set_num_threads(threads)
    study = Study(
        contestants=("iia_ddim", "dpmpp_2m", "gauss_newton"),
        nfes=(4, 6),
        batch_size=20,
        samples=samples,
        calibration_samples=calibration_samples,
        substeps=substeps,
        reference_steps=reference_steps,
        dimensions=dimensions,
        grid=grid,
        guidance=guidance,
        seed=seed,
    )
    loaded = load_model(model, device=use_device(device))
    with progress_bars() as say:
        results = run_demo(loaded, study, out, say=say)
    if as_json:
        print((out / "results.json").read_text(encoding="utf-8"), end="")
        return
    console.print(results_table(results))
    print(f"written to {out}: comparison.png, error_vs_nfe.png, results.json, results.parquet, cards/")
