"""The command ``longstride evaluate``: any samplers on any model, measured as strictly as the benchmarks measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longstride.book import CardBook, load_any
from longstride.card import Card
from longstride.cli.common import console, handled, progress_bars, use_device
from longstride.cli.evaluating_pipelines import SAMPLES, SOLVERS, Measuring, evaluate_whole
from longstride.cli.options import (
    DISTANCES,
    PIPELINES,
    QUALITY,
    CalibrationSamples,
    CallOption,
    Device,
    Dtype,
    Final,
    Grid,
    Guidance,
    Json,
    ModelName,
    Negative,
    Pipeline,
    ReferenceSteps,
    Seed,
    Size,
    Substeps,
    option,
)
from longstride.cli.render import results_table
from longstride.cli.unread import Case, refuse_unread
from longstride.cli.whole_pipelines import PipelineOptions
from longstride.cli.written import numbers_of
from longstride.errors import InputError
from longstride.evaluation import Results, Study, run_study, save_results
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
    ctx: typer.Context,
    model: ModelName,
    out: Annotated[Path, option("Folder for the results, and for finished batches.", "FOLDER")] = Path("evaluation"),
    solvers: Annotated[
        str | None,
        option(
            "Contestants, with commas; paper: the paper's; a comma alone: cards only. Default: "
            "ddim,iia_dpmpp_2m,gauss_newton, of pipelines ddim,dpmpp_2m,unipc3.",
            "NAMES",
        ),
    ] = None,
    card: Annotated[list[Path] | None, option("A card or a book to measure too; may be repeated.", "FILE")] = None,
    nfe: Annotated[str, option("Network calls per picture, with commas.", "CALLS")] = "5,6,8,10",
    samples: Annotated[
        int | None, option("Evaluation samples, and as many of the teacher; 1024, of pipelines 64.", "N", min=2)
    ] = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Measure cards of other weights, too.")] = False,
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
    dimensions: Annotated[
        int | None,
        option("Principal components; 0: no distance. 64; of pipelines, if there are pictures.", "N", DISTANCES, min=0),
    ] = None,
    features: Annotated[
        str, option("efficientnet-lite0 (offline) or inception.", "NETWORK", DISTANCES)
    ] = "efficientnet-lite0",
    real: Annotated[
        Path | None,
        option("Statistics (.npz) or a folder of real pictures; default: the model's own.", "PATH", DISTANCES),
    ] = None,
    # Whole pipelines
    pipeline: Pipeline = False,
    prompts: Annotated[
        Path | None,
        option("One prompt per line, of a text-to-image pipeline; implies --pipeline.", "FILE", PIPELINES),
    ] = None,
    decoded: Annotated[
        bool,
        typer.Option("--decoded", help="Compare pictures or videos, and not latents.", rich_help_panel=PIPELINES),
    ] = False,
    negative: Negative = None,
    size: Size = None,
    dtype: Dtype = "float32",
    call_options: CallOption = None,
) -> None:
    """Measure samplers on noise that calibration did not see: errors, Fréchet distances, intervals, plots.

    The samplers of a whole pipeline are classical solvers and cards. Each sample is a call of the pipeline, and the
    converged run is the same call with many steps.

    Finished batches are kept in the folder. The same command goes on after a kill and ends in the same numbers. Under
    torchrun or accelerate launch the processes share the batches.
    """
    whole = pipeline or prompts is not None
    wanted = _solvers(solvers, guided=guidance is not None, whole=whole)
    cases: list[Case] = ["pipeline" if whole else "network"]
    cases += [] if card else ["no card"]
    cases += ["cards only"] if card and not wanted else []
    cases += ["errors only"] if dimensions == 0 else []
    refuse_unread(ctx, cases)
    last = final_level(final)
    cards = _cards(card or [])
    theirs = {n for one in cards.values() for n in (one.nfes if isinstance(one, CardBook) else [one.nfe])}
    nfes = numbers_of(nfe) if wanted or not cards else tuple(sorted(theirs))
    if whole:
        measuring = Measuring(
            model=model,
            out=out,
            solvers=wanted,
            cards=cards,
            any_model=any_model,
            nfes=nfes,
            samples=samples or SAMPLES,
            guidance=guidance,
            seed=seed,
            device=device,
            reference_steps=reference_steps,
            dimensions=dimensions,
            features=features,
            decoded=decoded,
        )
        results = evaluate_whole(measuring, prompts, PipelineOptions(negative, size, dtype, call_options))
        if is_first():
            _tell(results, out, as_json=as_json)
        return
    study = Study(
        contestants=tuple(wanted),
        nfes=nfes,
        grid=grid,
        final=last,
        samples=samples or 1024,
        batch_size=batch_size,
        calibration_samples=calibration_samples,
        substeps=substeps,
        reference_steps=reference_steps,
        features=features,
        dimensions=64 if dimensions is None else dimensions,
        guidance=guidance,
        seed=seed,
    )
    check_writable(out / "results.json", new_folders=True)
    join(device)
    loaded = load_model(model, device=use_device(device))
    anchor = None
    if real is not None and study.dimensions:
        anchor = real_pictures(real, loaded, features, study.dimensions, device)
    with progress_bars() as say:
        outcome = run_study(loaded, study, out / "work", cards=cards, real=anchor, any_model=any_model, say=say)
    if is_first():
        _tell(outcome.results, out, as_json=as_json)


def _solvers(text: str | None, *, guided: bool, whole: bool) -> list[str]:
    """Names of the contestants."""
    if text is None:
        text = SOLVERS if whole else "ddim,iia_dpmpp_2m,gauss_newton"
    wanted = [name for name in text.split(",") if name]
    return list(paper(guided)) if wanted == ["paper"] else wanted


def _tell(results: Results, out: Path, *, as_json: bool) -> None:
    """Write the results and their plot, and print them."""
    save_results(results, out / "results.json")
    effect_curves(results, out / "error_vs_nfe.png")
    if as_json:
        print((out / "results.json").read_text(encoding="utf-8"), end="")
        return
    console.print(results_table(results))
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
