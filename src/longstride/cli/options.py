"""Options that several commands share, and the panels of their help."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from longstride.cli.written import check_nfes

__all__ = [
    "DISTANCES",
    "METHODS",
    "PIPELINES",
    "QUALITY",
    "CalibrationSamples",
    "CallOption",
    "Device",
    "Dimensions",
    "Dtype",
    "Final",
    "Grid",
    "Guidance",
    "Guidances",
    "Json",
    "ModelName",
    "Negative",
    "Nfes",
    "Pipeline",
    "ReferenceSteps",
    "Samples",
    "Seed",
    "Size",
    "Substeps",
    "option",
]

#: Panels of the help; options without a panel come first.
QUALITY = "Quality and cost"
PIPELINES = "Whole pipelines"
METHODS = "Other methods"
DISTANCES = "Fréchet distances"

#: Seeds are smaller than this.
_SEEDS = 2**31


def _check_seed(seed: int) -> int:
    """``seed`` itself, if it is small enough; as a check of its own it leaves the help short."""
    if seed >= _SEEDS:
        raise typer.BadParameter(f"{seed} is not in the range 0<=x<={_SEEDS - 1}.")
    return seed


def option(text: str, metavar: str | None = None, panel: str | None = None, **limits: Any) -> Any:
    """An option of a command: its help, how its value is written, and the panel that the help shows it in."""
    return typer.Option(help=text, metavar=metavar, rich_help_panel=panel, **limits)


ModelName = Annotated[
    str,
    typer.Argument(
        help="garments, galaxy:hsc32, a diffusers folder, or a hub id such as google/ddpm-cifar10-32.", metavar="MODEL"
    ),
]
Nfes = Annotated[str, option("Network calls per picture: 8; 4-20 or 4,6,8 make a book.", "CALLS", callback=check_nfes)]
Grid = Annotated[
    str,
    option("karras, log_snr, uniform or quadratic; auto: karras for EDM's kind of model, else uniform.", "GRID"),
]
Final = Annotated[str, option("Last level: sigma_min or zero.", "LEVEL")]
Guidance = Annotated[float | None, option("Classifier-free guidance scale; a guided call costs two.", "SCALE")]
Guidances = Annotated[
    str | None,
    option("Classifier-free guidance scale; a guided call costs two. 1-8 or 1,3,7.5 make a book.", "SCALE"),
]
Seed = Annotated[
    int, option("Seed of all noise; the same seed gives the same numbers.", "N", min=0, callback=_check_seed)
]
Device = Annotated[str, option("Where the network runs: cpu, cuda, cuda:1, mps.", "DEVICE")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")]

# Studies

Samples = Annotated[int, option("Evaluation samples, and as many of the teacher.", "N", min=2)]
CalibrationSamples = Annotated[int, option("Samples for calibration; half are held out.", "N", QUALITY, min=2)]
Substeps = Annotated[int, option("Fine steps M of IIA's target; the paper's is 10.", "M", QUALITY, min=1)]
ReferenceSteps = Annotated[int, option("Steps of the converged solution.", "N", QUALITY, min=2)]
Dimensions = Annotated[int, option("Principal components of the Fréchet distance; 0: none.", "N", DISTANCES, min=0)]

# Whole pipelines

Pipeline = Annotated[
    bool,
    typer.Option(
        "--pipeline",
        help="MODEL is a whole diffusers pipeline, used as it is: SDXL, SD3, Flux, Wan, DiT.",
        rich_help_panel=PIPELINES,
    ),
]
Negative = Annotated[str | None, option("Negative prompt.", "TEXT", PIPELINES)]
Size = Annotated[str | None, option("Pixels, such as 512x512.", "WIDTHxHEIGHT", PIPELINES)]
Dtype = Annotated[str, option("float32, float16 or bfloat16.", "DTYPE", PIPELINES)]
CallOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="Further argument of the pipeline's call; may be repeated. JSON or text; @file: a picture, a folder of "
        "pictures, .safetensors or .npy.",
        metavar="KEY=VALUE",
        rich_help_panel=PIPELINES,
    ),
]
