"""The command ``longstride sample``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from longstride.cli.common import (
    Device,
    Dtype,
    Grid,
    Guidance,
    Json,
    ModelName,
    Negative,
    Seed,
    Size,
    handled,
    use_device,
)

__all__ = ["sample"]


@handled
def sample(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="A .png file for one sheet, or a folder for single pictures.")] = Path(
        "samples.png"
    ),
    card: Annotated[Path | None, typer.Option(help="Calibrated sampler to use: a card, or a book and --nfe.")] = None,
    solver: Annotated[str, typer.Option(help="Classical solver, where no card is given.")] = "dpmpp_2m",
    nfe: Annotated[
        int | None, typer.Option(help="Network calls per picture; a card brings its own, else 8.", min=1)
    ] = None,
    grid: Grid = "auto",
    num: Annotated[int, typer.Option(help="Number of pictures.", min=1)] = 20,
    label: Annotated[int | None, typer.Option(help="One class for all pictures; default: all classes in turn.")] = None,
    guidance: Guidance = None,
    compare: Annotated[bool, typer.Option(help="Show base, calibrated and converged from the same noise.")] = False,
    any_model: Annotated[bool, typer.Option(help="Use a card that was calibrated on other weights.")] = False,
    batch_size: Annotated[int, typer.Option(help="Most samples per network call.", min=1)] = 64,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Of a text-to-image pipeline; may be repeated; implies --pipeline.")
    ] = None,
    pipeline: Annotated[bool, typer.Option("--pipeline", help="Draw with the whole diffusers pipeline.")] = False,
    negative: Negative = None,
    size: Size = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Draw pictures with a card or with a classical solver."""
    if pipeline or prompt:
        from longstride.cli.pipelines import draw_whole

        made = draw_whole(
            model,
            out,
            card=card,
            solver=solver,
            nfe=nfe,
            prompts=prompt or [],
            negative=negative,
            guidance=guidance,
            size=size,
            num=num,
            compare=compare,
            dtype=dtype,
            device=use_device(device),
            seed=seed,
        )
    else:
        from longstride.cli.sampling import draw

        made = draw(
            model=model,
            out=out,
            card_path=card,
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
            device=use_device(device),
        )
    print(json.dumps(made) if as_json else "\n".join(made["lines"]))
