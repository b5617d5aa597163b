"""The command ``longstride recalibrate``."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from longstride.book import CardBook, load_any
from longstride.calibration.endpoint.recalibrating import Recalibrating
from longstride.calibration.recalibrate import Recalibration, settled, starts_of, usual_settings
from longstride.calibration.recalibrate import recalibrate as from_card
from longstride.card import Card
from longstride.cli.common import console, handled, progress_bars, use_device
from longstride.cli.making import BATCH_SIZE, Wanted, tell_of_journal
from longstride.cli.options import (
    PIPELINES,
    QUALITY,
    CallOption,
    Device,
    Dtype,
    Json,
    ModelName,
    Negative,
    Size,
    option,
)
from longstride.cli.unread import refuse_unread
from longstride.cli.whole_pipelines import PipelineOptions, fit_whole
from longstride.errors import CardError, InputError
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable
from longstride.history import By, history_file, load_history, replace_card
from longstride.processes import is_first, join, wait
from longstride.zoo import load_model

__all__ = ["recalibrate"]


@handled
def recalibrate(
    ctx: typer.Context,
    card: Annotated[Path, typer.Argument(help="The card in use.", metavar="CARD")],
    model: ModelName,
    out: Annotated[
        Path | None, option("Where a better card is written, with the history; default: CARD itself.", "FILE")
    ] = None,
    seed: Annotated[int | None, option("Seed of all noise; default: one more than the card's.", "N", min=0)] = None,
    device: Device = "cpu",
    as_json: Json = False,
    batch: Annotated[int, option("Samples that are fitted.", "N", QUALITY, min=1)] = 16,
    held_out: Annotated[int, option("Further samples that decide.", "N", QUALITY, min=1)] = 16,
    iterations: Annotated[int | None, option("Most steps; 3.", "N", QUALITY, min=1)] = None,
    ridge: Annotated[float | None, option("Pull towards the card's table; 0.03.", "X", QUALITY, min=0.0)] = None,
    batch_size: Annotated[
        int | None, option("Most samples per network call; 64, of pipelines 8.", "N", QUALITY, min=1)
    ] = None,
    prompts: Annotated[
        Path | None, option("One prompt per line, of a text-to-image pipeline.", "FILE", PIPELINES)
    ] = None,
    negative: Negative = None,
    size: Size = None,
    dtype: Dtype = "float32",
    call_options: CallOption = None,
) -> None:
    """Improve a card with a few fresh samples, or keep it.

    The card's own table is the start. A new table replaces it only if it is surely better on samples that no fit saw,
    than the card and than the base. Use it after the network was fine-tuned, or now and then.

    The former card goes into the history, CARD.history; longstride rollback brings it back.
    """
    loaded = load_any(card)
    if isinstance(loaded, CardBook):
        raise InputError(f"{card} is a book: a recalibration is of one card; calibrate the book anew")
    whole = loaded.scheduler is not None
    refuse_unread(ctx, ["pipeline" if whole else "network"])
    settings = {key: value for key, value in {"iterations": iterations, "ridge": ridge}.items() if value is not None}
    target = out or card
    load_history(card)  # a damaged history is told before the work
    check_writable(history_file(target))
    before = loaded.settings.get("seed")
    wanted = Wanted(
        model=model,
        out=target,
        method=Recalibrating(),
        solver=None,
        nfes=[loaded.nfe],
        guidances=[loaded.model.guidance],
        grid="auto",
        final="sigma_min",
        settings={**usual_settings(loaded), **settings},
        batch=batch,
        held_out=held_out,
        batch_size=batch_size,
        seed=seed if seed is not None else 1 + (before if isinstance(before, int) else 0),
        device=device,
        quiet=as_json,
    )
    found = (
        _of_pipeline(wanted, loaded, prompts, PipelineOptions(negative, size, dtype, call_options))
        if whole
        else (_of_network(wanted, loaded))
    )
    if is_first() and found.verdict != "kept":
        by: By = "recalibrated" if found.verdict == "improved" else "base"
        replace_card(card, loaded, found.card, by, found.reason, found.errors, out=out)
    wait()
    shutil.rmtree(wanted.journal, ignore_errors=True)
    if is_first():
        _tell(found, target, as_json=as_json)


def _of_network(wanted: Wanted, card: Card) -> Recalibration:
    join(wanted.device)
    model = load_model(wanted.model, device=use_device(wanted.device))
    fitted, held_out = wanted.samples
    seeds, guidance = seed_range("calibration", wanted.seed, fitted + held_out), card.model.guidance
    denoiser = model.denoiser(seeds, guidance)
    if not wanted.quiet and is_first():
        tell_of_journal(wanted.journal)
    with progress_bars() as say:
        return from_card(
            card,
            denoiser,
            model.noise(seeds, float(card.table.sigmas[0])),
            held_out=held_out,
            batch_size=wanted.batch_size or BATCH_SIZE,
            model=model.info(guidance),
            seed=wanted.seed,
            journal=wanted.journal,
            progress=lambda done, total, what: say(what, done, total),
            **wanted.settings,
        )


def _of_pipeline(wanted: Wanted, card: Card, prompts: Path | None, options: PipelineOptions) -> Recalibration:
    way = wanted.way
    assert isinstance(way, Recalibrating)
    result = fit_whole(wanted, prompts, options, starts=starts_of(card))
    assert way.comparison is not None
    if card.call is not None and result.card.call is not None and card.call.digest != result.card.call.digest:
        raise CardError(
            f"{wanted.out} was made for another call of the pipeline: give the options that it was calibrated with"
        )
    return settled(card, way.comparison, result)


def _tell(found: Recalibration, out: Path, *, as_json: bool) -> None:
    """The verdict, and where the card is."""
    if as_json:
        told: dict[str, Any] = {name: getattr(found, name) for name in ("verdict", "reason", "samples", "calls")}
        print(json.dumps({**told, "errors": {name: asdict(one) for name, one in found.errors.items()}}))
        return
    what = {"card": "the card", "fitted": "fitted", "base": "the base"}
    errors = ", ".join(f"{what[name]} {one.rmse:.4g} ({one.median:.4g})" for name, one in found.errors.items())
    console.print(f"{found.verdict}: {found.reason}", highlight=False, markup=False, soft_wrap=True)
    print(f"RMSE (median) on {found.samples} held-out samples: {errors}")
    end = "nothing was written" if found.verdict == "kept" else f"card written to {out}"
    print(f"{found.calls:,} network calls in samples; {end}")
