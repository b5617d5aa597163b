"""The command ``longstride sample``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from longstride import sampler
from longstride.book import CardBook, load_any
from longstride.book_parts import Unjudged
from longstride.calibration import solve_reference
from longstride.calibration.reference.solve import errors
from longstride.card import Card
from longstride.cli.common import handled, use_device
from longstride.cli.drawing import Drawing
from longstride.cli.drawing_pipelines import draw_whole
from longstride.cli.options import (
    PIPELINES,
    CallOption,
    Device,
    Dtype,
    Grid,
    Guidance,
    Json,
    ModelName,
    Negative,
    Pipeline,
    Seed,
    Size,
    option,
)
from longstride.cli.unread import Case, refuse_unread
from longstride.cli.whole_pipelines import PipelineOptions
from longstride.errors import InputError
from longstride.evaluation.contestants import base_table
from longstride.evaluation.contestants import label as label_of
from longstride.evaluation.plots import comparison, picture_grid
from longstride.evaluation.seeds import seed_range
from longstride.network import in_batches
from longstride.reports import Errors
from longstride.zoo import Model, load_model

__all__ = ["draw", "sample"]

#: A panel of the help.
_CARDS = "Cards"


@handled
def sample(
    ctx: typer.Context,
    model: ModelName,
    out: Annotated[
        Path, option("A .png file for one sheet, or a folder for single pictures, videos and sound.", "PATH")
    ] = Path("samples.png"),
    card: Annotated[Path | None, option("Calibrated sampler to use: a card, or a book and --nfe.", "FILE")] = None,
    solver: Annotated[str, option("Classical solver, if no card is given.", "SOLVER")] = "dpmpp_2m",
    nfe: Annotated[
        int | None, option("Network calls per picture; a card brings its own, else 8.", "CALLS", min=1)
    ] = None,
    num: Annotated[int, option("Number of pictures.", "N", min=1)] = 20,
    label: Annotated[int | None, option("One class for all pictures; default: all classes in turn.", "N")] = None,
    guidance: Guidance = None,
    grid: Grid = "auto",
    batch_size: Annotated[int, option("Most samples per network call.", "N", min=1)] = 64,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    # Cards
    compare: Annotated[bool, option("Show base, calibrated and converged from the same noise.", None, _CARDS)] = False,
    any_model: Annotated[bool, option("Use a card of other weights, or of another call.", None, _CARDS)] = False,
    # Whole pipelines
    pipeline: Pipeline = False,
    prompt: Annotated[
        list[str] | None,
        option("Of a text-to-image pipeline; may be repeated; implies --pipeline.", "TEXT", PIPELINES),
    ] = None,
    negative: Negative = None,
    size: Size = None,
    dtype: Dtype = "float32",
    call_options: CallOption = None,
) -> None:
    """Draw with a card or with a classical solver: pictures, and the videos and the sound of pipelines."""
    whole = pipeline or bool(prompt)
    cases: list[Case] = ["pipeline" if whole else "network"]
    cases += ["no card"] if card is None else []
    cases += ["one row"] if whole and card is None else []
    cases += ["card of a network"] if not whole and card is not None else []
    refuse_unread(ctx, cases)
    asked = Drawing(
        model=model,
        out=out,
        card=card,
        solver=solver,
        nfe=nfe,
        grid=grid,
        num=num,
        label=label,
        guidance=guidance,
        compare=compare,
        any_model=any_model,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    if whole:
        made = draw_whole(asked, prompt or [], PipelineOptions(negative, size, dtype, call_options))
    else:
        made = draw(asked)
    print(json.dumps(made) if as_json else "\n".join(made["lines"]))


def draw(asked: Drawing) -> dict[str, Any]:
    """Draw pictures and write them.

    Returns:
        What was made: solver, nfe, seeds, files, errors if compared, and lines to print.
    """
    device = use_device(asked.device)
    asked.check_out()
    card = None if asked.card is None else _chosen(asked.card, asked.nfe, asked.guidance)
    model = load_model(asked.model, device=device)
    model.check_pictures()
    guidance = asked.guidance
    if card is None:
        table = base_table(model.schedule, asked.solver, asked.nfe or 8, grid=asked.grid)
    else:
        guidance = card.model.guidance if guidance is None else guidance
        if not asked.any_model:
            card.check_model(model.info(guidance))
        table = card.table
    seeds = seed_range("evaluation", asked.seed, asked.num)
    denoiser = model.denoiser(seeds, guidance, _labels(asked, model))
    noise, network = model.noise(seeds, table.sigmas[0]), in_batches(denoiser, asked.batch_size)
    drawn = sampler.sample(network, noise, table)
    made: dict[str, Any] = {"solver": table.name, "nfe": table.nfe * denoiser.cost, "seeds": [seeds[0], seeds[-1]]}
    lines = [f"{asked.num} pictures by {label_of(table.name)}, {made['nfe']} network calls each"]
    if isinstance(card, Unjudged):
        made["note"] = card.note
        lines.insert(0, f"note: {card.note}")
    if asked.compare:
        reference = solve_reference(denoiser, noise, table, batch_size=asked.batch_size)
        rows = [*_base_rows(card, network, noise), (f"{label_of(table.name)}\n{table.nfe} calls", drawn)]
        found = {name.split("\n")[0]: errors(shown, reference.samples) for name, shown in rows}
        made["errors"] = {name: {"rmse": e.rmse, "median": e.median} for name, e in found.items()}
        lines += [_error_line(name, e) for name, e in found.items()]
        rows.append((f"converged\n{reference.nfe} calls", reference.samples))
        made["files"] = _write_comparison(asked, model, rows)
    else:
        made["files"] = _write_pictures(asked, model, seeds, drawn)
    made["lines"] = [*lines, f"written to {asked.out}"]
    return made


def _labels(asked: Drawing, model: Model) -> torch.Tensor | None:
    """The class of every picture, or None for all classes in turn."""
    if asked.label is None:
        return None
    model.check_labels([asked.label])
    return torch.full((asked.num,), asked.label)


def _write_comparison(asked: Drawing, model: Model, rows: list[tuple[str, torch.Tensor]]) -> list[str]:
    """Write rows of at most 20 samples as one sheet; the file."""
    sheet = asked.out if asked.one_file else asked.out / "comparison.png"
    pictures = [(name, model.pictures(shown[:20])) for name, shown in rows]
    _make_folder(sheet.parent)
    comparison(pictures, sheet, title="Same network, same noise")
    return [str(sheet)]


def _write_pictures(asked: Drawing, model: Model, seeds: range, drawn: torch.Tensor) -> list[str]:
    """Write samples as one sheet, or every picture by itself; the files."""
    pictures = model.pictures(drawn)
    if asked.one_file:
        _make_folder(asked.out.parent)
        columns = model.num_classes if 0 < model.num_classes <= 20 else 10
        scale = max(1, 96 // pictures.shape[-1])
        picture_grid(pictures, asked.out, columns=min(columns, asked.num), scale=scale)
        return [str(asked.out)]
    _make_folder(asked.out)
    files = [str(asked.out / f"{seed:07d}.png") for seed in seeds]
    for file, picture in zip(files, pictures, strict=True):
        picture_grid(picture[None], Path(file), columns=1)
    return files


def _chosen(path: Path, nfe: int | None, guidance: float | None) -> Card | Unjudged:
    """The card of a file, or the sampler that a book has for a setting.

    Raises:
        InputError: a book without a number of calls, or a card of another one.
    """
    loaded = load_any(path)
    if isinstance(loaded, CardBook):
        if nfe is None:
            raise InputError(f"{path} is a book of {loaded.contents}: say which with --nfe")
        return loaded.choose(nfe, guidance)
    if nfe not in (None, loaded.nfe):
        raise InputError(f"{path} is a card for {loaded.nfe} network calls, not {nfe}: drop --nfe, or take a book")
    return loaded


def _base_rows(card: Card | Unjudged | None, network: Any, noise: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Samples of the base that a card was calibrated from; none if the card holds the base."""
    if card is None or card.table is card.base_table:
        return []
    base = card.base_table
    return [(f"{label_of(base.name)}\n{base.nfe} calls", sampler.sample(network, noise, base))]


def _error_line(name: str, found: Errors) -> str:
    return f"  {name:<16} RMSE {found.rmse:.4f}  median {found.median:.4f}  (distance to the converged solution)"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror or error}") from None
