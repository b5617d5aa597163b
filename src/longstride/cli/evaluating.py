"""``longstride evaluate``: any samplers on any model, measured as strictly as the benchmark measures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longstride.cli.app import app
from longstride.cli.common import (
    Device,
    Grid,
    Guidance,
    Json,
    ModelName,
    Seed,
    console,
    handled,
    progress_bars,
    use_device,
)
from longstride.errors import InputError
from longstride.grid import final_level
from longstride.processes import is_first, join

__all__ = ["evaluate"]


@app.command(epilog="Example: longstride evaluate garments --nfe 5,8 --samples 512")
@handled
def evaluate(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder for the results, and for finished batches.")] = Path("evaluation"),
    solvers: Annotated[
        str, typer.Option(help="Contestants, with commas; paper: those of the paper; empty: cards only.")
    ] = "ddim,iia_dpmpp_2m,gauss_newton",
    card: Annotated[list[Path] | None, typer.Option(help="A card or a book to measure too; may be repeated.")] = None,
    nfe: Annotated[str, typer.Option(help="Network calls per picture, with commas.")] = "5,6,8,10",
    samples: Annotated[int, typer.Option(help="Evaluation samples, and as many of the teacher.", min=2)] = 1024,
    batch_size: Annotated[int, typer.Option(help="Samples per network call; intervals want 32 batches.", min=1)] = 32,
    calibration_samples: Annotated[int, typer.Option(help="Samples for calibration; half are held out.", min=2)] = 128,
    substeps: Annotated[int, typer.Option(help="Fine steps M of IIA's target.", min=1)] = 10,
    reference_steps: Annotated[int, typer.Option(help="Steps of the converged solution.", min=2)] = 64,
    features: Annotated[str, typer.Option(help="efficientnet-lite0 (offline) or inception.")] = "efficientnet-lite0",
    dimensions: Annotated[int, typer.Option(help="Principal components of the Fréchet distance; 0: none.", min=0)] = 64,
    real: Annotated[
        Path | None, typer.Option(help="Statistics (.npz) or a folder of real pictures; default: the model's own.")
    ] = None,
    grid: Grid = "auto",
    final: Annotated[str, typer.Option(help="Last level: sigma_min or zero.")] = "sigma_min",
    guidance: Guidance = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure samplers on noise that calibration did not see: errors, Fréchet distances, intervals, plots.

    Finished batches are kept in the folder: the same command goes on after a kill and ends in the same numbers. Under
    torchrun or accelerate launch the processes share the batches.
    """
    from longstride.book import CardBook, load_any
    from longstride.cli.render import results_table
    from longstride.evaluation import Study, run_study, save_results
    from longstride.evaluation.contestants import paper
    from longstride.evaluation.plots import effect_curves
    from longstride.evaluation.real import real_pictures
    from longstride.files import check_writable
    from longstride.zoo import load_model

    last = final_level(final)
    cards = {path.stem: load_any(path) for path in card or ()}
    if len(cards) < len(card or ()):
        raise InputError("two cards have files of the same name: rename one, for results are listed by it")
    wanted = [name for name in solvers.split(",") if name]
    if wanted == ["paper"]:
        wanted = list(paper(guidance is not None))
    theirs = {n for one in cards.values() for n in (one.nfes if isinstance(one, CardBook) else [one.nfe])}
    study = Study(
        contestants=tuple(wanted),
        nfes=_numbers(nfe) if wanted or not cards else tuple(sorted(theirs)),
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


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"expected numbers of network calls with commas, such as 5,6,8,10, got {text!r}") from None
    return tuple(sorted(found))
