"""The commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longstride import __version__
from longstride.cli.common import (
    Device,
    Dtype,
    Grid,
    Group,
    Guidance,
    Json,
    ModelName,
    Negative,
    Seed,
    Size,
    console,
    handled,
    progress_bars,
    use_device,
)
from longstride.cli.convert import convert
from longstride.cli.sample import sample
from longstride.cli.settings import check_nfes, guidances_of, nfes_of
from longstride.processes import is_first

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fewer, longer steps: the same diffusion model, the same pictures, a fraction of the network calls.\n\n"
    "Start with [bold]longstride demo[/]; then [bold]longstride calibrate[/] your own model.",
)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"longstride {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Fewer, longer steps."""


@app.command(epilog="Example: longstride demo --out demo-output")
@handled
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.json, the pictures and the cards.")] = Path(
        "demo-output"
    ),
    model: Annotated[str, typer.Option(help="As in calibrate.")] = "garments",
    samples: Annotated[int, typer.Option(help="Evaluation samples, and as many teacher samples.", min=2)] = 40,
    calibration_samples: Annotated[int, typer.Option(help="Samples for calibration; half are held out.", min=2)] = 64,
    substeps: Annotated[int, typer.Option(help="Fine steps M of IIA's target; the paper's is 10.", min=1)] = 4,
    reference_steps: Annotated[int, typer.Option(help="Steps of the converged solution.", min=2)] = 32,
    dimensions: Annotated[int, typer.Option(help="Principal components of the Fréchet distance; 0: none.", min=0)] = 16,
    grid: Grid = "auto",
    guidance: Guidance = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.", min=0)] = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Calibrate on the bundled model, compare with the classical solvers, and draw what came out.

    Errors are distances to the converged ODE solution from the same noise, on noise that calibration did not see.
    """
    import torch

    from longstride.cli.render import results_table
    from longstride.demo import run_demo
    from longstride.evaluation.study import Study
    from longstride.zoo import load_model

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


@app.command(epilog="Example: longstride calibrate garments --nfe 4-20 --out book.json")
@handled
def calibrate(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Where the card, or the book, is written.")] = Path("card.json"),
    method: Annotated[
        str,
        typer.Option(
            help="gauss_newton: everything together; global: row by row along whole trajectories; iia: row by row, or "
            "as published: iia_ddim, iia_spndm, iia_ipndm, iia_dpm_solver, biia_edm, iia_edm, iia_ddim_cfg."
        ),
    ] = "gauss_newton",
    solver: Annotated[
        str | None, typer.Option(help="Base solver; default: the method's first, or ddim (one start of many).")
    ] = None,
    nfe: Annotated[
        str,
        typer.Option(
            help="Network calls per picture: 8; 4-20 or 4,6,8 make a book.", callback=check_nfes, metavar="CALLS"
        ),
    ] = "8",
    grid: Grid = "auto",
    final: Annotated[str, typer.Option(help="Last level: sigma_min or zero.")] = "sigma_min",
    iterations: Annotated[int | None, typer.Option(help="Most steps of gauss_newton.", min=1)] = None,
    residual: Annotated[str | None, typer.Option(help="What gauss_newton compares, such as pixels.")] = None,
    window: Annotated[
        int | None, typer.Option(help="gauss_newton and global: outputs that a row weighs; default: all.", min=1)
    ] = None,
    directions: Annotated[str | None, typer.Option(help="iia: differences, increments or split.")] = None,
    r: Annotated[int | None, typer.Option("--r", help="iia: look back, r + 1 gradients.")] = None,
    substeps: Annotated[int | None, typer.Option(help="iia: fine steps M of the target; 10.", min=1)] = None,
    fine: Annotated[str | None, typer.Option(help="iia: solver of the fine steps; base, the base solver.")] = None,
    ridge: Annotated[float | None, typer.Option(help="Penalty towards the start; 1e-6.", min=0.0)] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples that are fitted; 96, up to 6 calls 128; iia, global 16.", min=1)
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Further samples that decide what is accepted; 48, iia and global 16.", min=1)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Most samples per network call; 64, of pipelines 8.", min=1)
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            help="Classifier-free guidance scale; a guided call costs two. 1-8 or 1,3,7.5 make a book.", metavar="SCALE"
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="One prompt per line, of a text-to-image pipeline; implies --pipeline.")
    ] = None,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Calibrate the whole diffusers pipeline as it is: SDXL, SD3, Flux, DiT.")
    ] = False,
    negative: Negative = None,
    size: Size = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure better coefficients for a model and a number of network calls, and save them on a card.

    Several numbers of calls or guidance scales go into one book: a few settings are calibrated, those between them are
    filled, and each is judged on noise that no fit saw.

    Finished batches are kept beside the card until it is written: a calibration that was stopped goes on where it was
    when the same command is given again. Under torchrun or accelerate launch the processes share the batches.
    """
    from longstride.book import CardBook
    from longstride.cli.calibrating import Wanted, make
    from longstride.cli.render_cards import book_summary, card_summary

    settings = {"iterations": iterations, "residual": residual, "window": window, "ridge": ridge}
    settings |= {"directions": directions, "r": r, "substeps": substeps, "fine": fine}
    given = {key: value for key, value in settings.items() if value is not None}
    if pipeline or prompts is not None:
        from longstride.calibration.endpoint.settings import HELD_OUT
        from longstride.cli.pipelines import calibrate_whole

        whole = calibrate_whole(
            model,
            out,
            nfes_of(nfe),
            method=method,
            prompts=prompts,
            negative=negative,
            guidances=guidances_of(guidance),
            size=size,
            dtype=dtype,
            device=use_device(device),
            samples=batch,
            held_out=held_out or HELD_OUT,
            batch_size=batch_size,
            seed=seed,
            quiet=as_json,
            settings=given,
        )
        if as_json:
            print(whole.card.dumps(), end="")
        else:
            console.print(card_summary(whole.card))
            print(f"{whole.calls:,} calls of the pipeline in samples; card written to {out}")
        return
    wanted = Wanted(
        model=model,
        out=out,
        method=method,
        solver=solver,
        nfes=nfes_of(nfe),
        guidances=guidances_of(guidance),
        grid=grid,
        final=final,
        settings=given,
        batch=batch,
        held_out=held_out,
        batch_size=batch_size or 64,
        seed=seed,
        device=device,
        quiet=as_json,
    )
    result = make(wanted)
    if not is_first():
        return
    if as_json:
        print((result if isinstance(result, CardBook) else result.card).dumps(), end="")
    elif isinstance(result, CardBook):
        console.print(book_summary(result))
        print(f"book of {len(result.entries)} settings written to {out}")
    else:
        console.print(card_summary(result.card))
        print(
            f"{result.calls:,} network calls in samples, {result.fit_calls:.2f} per sample and step for the fit; "
            f"card written to {out}"
        )


@app.command(epilog="Example: longstride show card.json")
@handled
def show(
    card: Annotated[Path, typer.Argument(help="A card or a book written by longstride calibrate.")],
    as_json: Json = False,
) -> None:
    """Show a card: how good it is, the formula of every step, and its weights as a heatmap. Of a book, its settings."""
    from longstride.book import CardBook, load_any
    from longstride.cli.render_cards import book_summary, card_summary, formulas, heatmap

    loaded = load_any(card)
    if as_json:
        content: dict[str, Any] = json.loads(loaded.dumps())
        print(json.dumps(content))
    elif isinstance(loaded, CardBook):
        console.print(book_summary(loaded))
    else:
        for part in (card_summary(loaded), formulas(loaded), heatmap(loaded)):
            console.print(part)


app.command(epilog="Example: longstride convert net.pkl net --run-code-in-file")(convert)
app.command(epilog="Example: longstride sample garments --card card.json --num 20 --compare")(sample)
