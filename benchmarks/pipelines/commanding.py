"""The trial of the command line: ``longstride calibrate`` and ``longstride sample`` on a saved pipeline."""

from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.pipelines.calibrating import BATCH, PROMPTS, Call, NoCall, call_of
from benchmarks.pipelines.records import Outcome, Status, first_line
from benchmarks.pipelines.sampling import STEPS, Drawing

__all__ = ["REPRESENTATIVES", "command_trial"]

#: Classes that the command line is tried on, one or two for every way in which pipelines differ.
REPRESENTATIVES = (
    "AuraFlowPipeline",  # flow matching without settings
    "CogVideoXPipeline",  # video, DDIM
    "CogView4Pipeline",  # levels of its own
    "CosmosTextToWorldPipeline",  # EDM's preconditioning
    "DDIMPipeline",
    "DiTPipeline",
    "FluxKontextPipeline",  # a picture as a condition
    "FluxPipeline",  # a shift by the resolution, embedded guidance, packed states
    "HunyuanVideo15Pipeline",  # a guider
    "LTXPipeline",
    "LongCatAudioDiTPipeline",  # sound
    "Lumina2Pipeline",  # reads the number of the step
    "PixArtSigmaPipeline",
    "SanaPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "WanPipeline",  # reads the levels
    "ZImagePipeline",
)


class _Unwritten(Exception):
    """An argument cannot be written on a command line."""


def command_trial(drawing: Drawing) -> Outcome:
    """Whether a saved pipeline is calibrated by the command line, and sampled with the card."""
    name = type(drawing.built.pipeline).__name__
    if name not in REPRESENTATIVES:
        return Outcome("not tried", "another pipeline of its kind was tried")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        saved = folder / "pipeline"
        try:
            drawing.built.pipeline.save_pretrained(saved)
            diffusers.DiffusionPipeline.from_pretrained(saved)
        except Exception as error:
            return Outcome("not tried", f"it cannot be saved and loaded: {type(error).__name__}: {first_line(error)}")
        try:
            shared, texts = _written(call_of(drawing), folder)
        except (_Unwritten, NoCall) as error:
            return Outcome("not tried", str(error))
        return _run(saved, folder, shared, texts)


def _run(saved: Path, folder: Path, shared: list[str], texts: bool) -> Outcome:
    card, prompts = folder / "card.json", folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    few = ["--nfe", STEPS, "--batch", BATCH, "--held-out", BATCH, "--batch-size", BATCH, "--iterations", 1]
    how = ["--prompts", prompts] if texts else ["--pipeline"]
    drawn = ["--prompt", PROMPTS[0]] if texts else ["--pipeline"]
    commands = (
        ["calibrate", saved, *few, *how, *shared, "--out", card],
        ["sample", saved, "--card", card, "--num", 1, *drawn, *shared, "--out", folder / "drawn"],
    )
    for command in commands:
        try:
            code, told = _longstride([str(part) for part in command])
        except Exception as error:
            return Outcome("fault", f"{command[0]}: {type(error).__name__}: {error}")
        if code:
            kind: Status = "refused" if code == 2 and told.startswith("error: ") else "fault"
            return Outcome(kind, f"{command[0]}: {' '.join(told.split())}")
    return Outcome("works")


def _longstride(arguments: Sequence[str]) -> tuple[int, str]:
    """What ``python -m longstride`` exits with, and what it says of errors. It runs here, where the stand-ins are."""
    before, told = sys.argv, io.StringIO()
    sys.argv = ["longstride", *arguments]
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(told):
            runpy.run_module("longstride", run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0), told.getvalue()
    finally:
        sys.argv = before
    return 0, told.getvalue()


def _written(call: Call, folder: Path) -> tuple[list[str], bool]:
    """The arguments of a call as options of the command line, and whether the pipeline takes prompts.

    Raises:
        _Unwritten: one of them cannot be written.
    """
    found: list[str] = []
    if call.guidance is not None:
        found += ["--guidance", f"{call.guidance:g}"]
    if "negative_prompt" in call.per_sample:
        found += ["--negative", str(call.per_sample["negative_prompt"][0])]
    own = {name: values[0] for name, values in call.per_sample.items() if name not in ("prompt", "negative_prompt")}
    for name, value in {**call.options, **own}.items():
        found += ["--option", f"{name}={_value(name, value, folder)}"]
    return found, "prompt" in call.per_sample


def _value(name: str, value: Any, folder: Path) -> str:
    if isinstance(value, Image.Image):
        value.save(folder / f"{name}.png")
        return f"@{folder / name}.png"
    if isinstance(value, Tensor):
        np.save(folder / f"{name}.npy", value.float().numpy())
        return f"@{folder / name}.npy"
    try:
        return json.dumps(value)
    except TypeError:
        raise _Unwritten(f"its {name} cannot be written on a command line") from None
