"""The command ``longstride calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longstride.book import CardBook
from longstride.calibration import Calibration
from longstride.cli.budgeting import budget_of
from longstride.cli.common import console, handled
from longstride.cli.making import Wanted, make
from longstride.cli.options import (
    METHODS,
    PIPELINES,
    QUALITY,
    CallOption,
    Device,
    Dtype,
    Final,
    Grid,
    Guidances,
    Json,
    ModelName,
    Negative,
    Nfes,
    Pipeline,
    Seed,
    Size,
    option,
)
from longstride.cli.render import book_summary, card_summary
from longstride.cli.unread import Case, refuse_unread
from longstride.cli.whole_pipelines import PipelineOptions, calibrate_whole
from longstride.cli.written import guidances_of, nfes_of
from longstride.processes import is_first

__all__ = ["calibrate"]


@handled
def calibrate(
    ctx: typer.Context,
    model: ModelName,
    out: Annotated[Path, option("Where the card, or the book, is written.", "FILE")] = Path("card.json"),
    nfe: Nfes = "8",
    guidance: Guidances = None,
    grid: Grid = "auto",
    final: Final = "sigma_min",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    # Quality and cost
    budget: Annotated[
        str | None,
        option("Network calls or time to spend: 2000, 90s, 20min; starts from universal tables.", "BUDGET", QUALITY),
    ] = None,
    iterations: Annotated[int | None, option("Most steps of gauss_newton.", "N", QUALITY, min=1)] = None,
    rank: Annotated[
        int | None,
        option(
            "Directions per level in which gauss_newton differentiates; fewer calls; default: exact.",
            "N",
            QUALITY,
            min=1,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        option("Samples that are fitted; 96, up to 6 calls 128; iia, global 16.", "N", QUALITY, min=1),
    ] = None,
    held_out: Annotated[
        int | None,
        option("Further samples that decide what is accepted; 48, iia and global 16.", "N", QUALITY, min=1),
    ] = None,
    batch_size: Annotated[
        int | None, option("Most samples per network call; 64, of pipelines 8.", "N", QUALITY, min=1)
    ] = None,
    # Whole pipelines
    pipeline: Pipeline = False,
    prompts: Annotated[
        Path | None,
        option("One prompt per line, of a text-to-image pipeline; implies --pipeline.", "FILE", PIPELINES),
    ] = None,
    negative: Negative = None,
    size: Size = None,
    dtype: Dtype = "float32",
    call_options: CallOption = None,
    # Other methods
    method: Annotated[
        str,
        option(
            "gauss_newton: everything together; global: row by row along whole trajectories; iia: row by row, or "
            "as published: iia_ddim, iia_spndm, iia_ipndm, iia_dpm_solver, biia_edm, iia_edm, iia_ddim_cfg.",
            "METHOD",
            METHODS,
        ),
    ] = "gauss_newton",
    solver: Annotated[
        str | None,
        option("Base solver; default: the method's first, or ddim (one start of many).", "SOLVER", METHODS),
    ] = None,
    window: Annotated[
        int | None,
        option("gauss_newton and global: outputs that a row weighs; default: all.", "N", METHODS, min=1),
    ] = None,
    ridge: Annotated[float | None, option("Penalty towards the start; 1e-6.", "X", METHODS, min=0.0)] = None,
    directions: Annotated[str | None, option("iia: differences, increments or split.", "FAMILY", METHODS)] = None,
    r: Annotated[int | None, option("iia: look back, r + 1 gradients.", "R", METHODS)] = None,
    substeps: Annotated[int | None, option("iia: fine steps M of the target; 10.", "M", METHODS, min=1)] = None,
    fine: Annotated[
        str | None, option("iia: solver of the fine steps; base, the base solver.", "SOLVER", METHODS)
    ] = None,
) -> None:
    """Measure better coefficients for a model and a number of network calls, and save them on a card.

    Several numbers of calls or guidance scales go into one book. A few settings are calibrated, the settings between
    them are filled. Each is judged on noise that no fit saw.

    Finished batches are kept beside the card until the card is written. The same command goes on after a kill. Under
    torchrun or accelerate launch the processes share the batches.
    """
    whole = pipeline or prompts is not None
    cases: list[Case] = ["pipeline" if whole else "network"]
    refuse_unread(ctx, [*cases, "budget"] if budget is not None else cases)
    settings: dict[str, object] = {"iterations": iterations, "rank": rank, "window": window, "ridge": ridge}
    settings |= {"directions": directions, "r": r, "substeps": substeps, "fine": fine}
    wanted = Wanted(
        model=model,
        out=out,
        method=method,
        solver=solver,
        nfes=nfes_of(nfe),
        guidances=guidances_of(guidance),
        grid=grid,
        final=final,
        settings={key: value for key, value in settings.items() if value is not None},
        batch=batch,
        held_out=held_out,
        batch_size=batch_size,
        seed=seed,
        device=device,
        quiet=as_json,
        budget=None if budget is None else budget_of(budget),
    )
    if whole:
        card = calibrate_whole(wanted, prompts, PipelineOptions(negative, size, dtype, call_options))
        if is_first():
            _tell(card, out, f"{card.calls:,} calls of the pipeline in samples", as_json=as_json)
        return
    made = make(wanted)
    if not is_first():
        return
    if isinstance(made, CardBook):
        if as_json:
            print(made.dumps(), end="")
            return
        console.print(book_summary(made))
        print(f"book of {len(made.entries)} settings written to {out}")
        return
    cost = f"{made.calls:,} network calls in samples, {made.fit_calls:.2f} per sample and step for the fit"
    _tell(made, out, cost, as_json=as_json)


def _tell(made: Calibration, out: Path, cost: str, *, as_json: bool) -> None:
    """What came out, and what it cost."""
    if as_json:
        print(made.card.dumps(), end="")
    else:
        console.print(card_summary(made.card))
        print(f"{cost}; card written to {out}")
