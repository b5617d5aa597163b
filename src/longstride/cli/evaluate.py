"""The command ``longstride evaluate``: any samplers on any model, measured as strictly as the benchmarks measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from longstride.book import CardBook, load_any
from longstride.card import Card
from longstride.cli.common import console, handled, progress_bars, use_device
from longstride.cli.options import (
    DISTANCES,
    QUALITY,
    CalibrationSamples,
    Device,
    Dimensions,
    Final,
    Grid,
    Guidance,
    Json,
    ModelName,
    ReferenceSteps,
    Samples,
    Seed,
    Substeps,
    option,
)
from longstride.cli.render import results_table
from longstride.cli.written import numbers_of
from longstride.errors import InputError
from longstride.evaluation import Study, run_study, save_results
from longstride.evaluation.contestants import paper
from longstride.evaluation.plots import effect_curves
from longstride.evaluation.real import real_pictures
from longstride.files import check_writable
from longstride.grid import final_level
from longstride.processes import is_first, join
from longstride.zoo import load_model

__all__ = ["evaluate"]


@handled
def evaluate(
    model: ModelName,
    out: Annotated[Path, option("Folder for the results, and for finished batches.", "FOLDER")] = Path("evaluation"),
    solvers: Annotated[
        str, option("Contestants, with commas; paper: the paper's; empty: cards only.", "NAMES")
    ] = "ddim,iia_dpmpp_2m,gauss_newton",
    card: Annotated[list[Path] | None, option("A card or a book to measure too; may be repeated.", "FILE")] = None,
    nfe: Annotated[str, option("Network calls per picture, with commas.", "CALLS")] = "5,6,8,10",
    samples: Samples = 1024,
    guidance: Guidance = None,
    grid: Grid = "auto",
    final: Final = "sigma_min",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    # Quality and cost
    batch_size: Annotated[
        int, option("Samples per network call; intervals want 32 batches.", "N", QUALITY, min=1)
    ] = 32,
    calibration_samples: CalibrationSamples = 128,
    substeps: Substeps = 10,
    reference_steps: ReferenceSteps = 64,
    # Fréchet distances
    dimensions: Dimensions = 64,
    features: Annotated[
        str, option("efficientnet-lite0 (offline) or inception.", "NETWORK", DISTANCES)
    ] = "efficientnet-lite0",
    real: Annotated[
        Path | None,
        option("Statistics (.npz) or a folder of real pictures; default: the model's own.", "PATH", DISTANCES),
    ] = None,
) -> None:
    """Measure samplers on noise that calibration did not see: errors, Fréchet distances, intervals, plots.

    Finished batches are kept in the folder. The same command goes on after a kill and ends in the same numbers. Under
    torchrun or accelerate launch the processes share the batches.
    """
    last = final_level(final)
    cards = _cards(card or [])
    wanted = [name for name in solvers.split(",") if name]
    if wanted == ["paper"]:
        wanted = list(paper(guidance is not None))
    theirs = {n for one in cards.values() for n in (one.nfes if isinstance(one, CardBook) else [one.nfe])}
    study = Study(
        contestants=tuple(wanted),
        nfes=numbers_of(nfe) if wanted or not cards else tuple(sorted(theirs)),
        grid=grid,
        final=last,
        samples=samples,
        batch_size=batch_size,
        calibration_samples=calibration_samples,
        substeps=substeps,
        reference_steps=reference_steps,
        features=features,
        dimensions=dimensions,
        guidance=guidance,
        seed=seed,
    )
    check_writable(out / "results.json", new_folders=True)
    join(device)
    loaded = load_model(model, device=use_device(device))
    anchor = None if real is None or not dimensions else real_pictures(real, loaded, features, dimensions, device)
    with progress_bars() as say:
        outcome = run_study(loaded, study, out / "work", cards=cards, real=anchor, say=say)
    if not is_first():
        return
    save_results(outcome.results, out / "results.json")
    effect_curves(outcome.results, out / "error_vs_nfe.png")
    if as_json:
        print((out / "results.json").read_text(encoding="utf-8"), end="")
        return
    console.print(results_table(outcome.results))
    print(f"written to {out}: results.json, results.parquet, error_vs_nfe.png; finished batches in {out / 'work'}")


def _cards(files: list[Path]) -> dict[str, Card | CardBook]:
    """Cards and books by the names of their files.

    Raises:
        InputError: two files of the same name.
    """
    cards = {path.stem: load_any(path) for path in files}
    if len(cards) < len(files):
        raise InputError("two cards have files of the same name: rename one, for results are listed by it")
    return cards
