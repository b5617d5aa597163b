"""What ``longstride calibrate`` and ``longstride sample`` do with whole diffusers pipelines."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longstride.book import CardBook, load_any
from longstride.calibration import Calibration
from longstride.calibration.calibrate import default_settings
from longstride.calibration.endpoint.settings import GaussNewtonSettings, fitted_samples, most_calls
from longstride.card import Card
from longstride.cli.common import console, progress_bars
from longstride.errors import InputError, unknown
from longstride.evaluation.plots import comparison, picture_grid
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable

__all__ = ["calibrate_whole", "draw_whole", "load_pipeline", "prompts_in", "size_of"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def prompts_in(file: Path) -> list[str]:
    """The prompts of a text file, one per line; empty lines and those that begin with ``#`` are passed over.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read prompts from {file}: {error}") from None
    if not (found := [line for line in lines if line and not line.startswith("#")]):
        raise InputError(f"{file} holds no prompts: one per line is expected")
    return found


def size_of(text: str | None) -> dict[str, int]:
    """``768x512`` as the width and height of a call.

    Raises:
        InputError: not written like that.
    """
    if text is None:
        return {}
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InputError(f"expected a size such as 512x512, got {text!r}")
    return {"width": int(width), "height": int(height)}


def load_pipeline(source: str, device: str, dtype: str) -> Any:
    """A diffusers pipeline from a folder or the hub; safetensors only.

    Raises:
        InputError: there is none, or an unknown dtype.
    """
    from diffusers import DiffusionPipeline

    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    try:
        # Older versions know it by the second name only, newer ones warn of that.
        name = "torch_dtype" if "torch_dtype (" in str(DiffusionPipeline.from_pretrained.__doc__) else "dtype"
        pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True, **{name: _DTYPES[dtype]})
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"cannot load a pipeline from {source!r} ({type(error).__name__}: {reason})") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@contextmanager
def _refusals() -> Iterator[None]:
    """What a pipeline says of options that it does not take, in one line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"the pipeline refuses its options: {str(error).partition(chr(10))[0]}") from error


def calibrate_whole(
    source: str,
    out: Path,
    nfes: Sequence[int],
    *,
    method: str,
    prompts: Path | None,
    negative: str | None,
    guidances: Sequence[float | None],
    size: str | None,
    dtype: str,
    device: str,
    samples: int | None,
    held_out: int,
    batch_size: int | None,
    seed: int,
    quiet: bool,
    settings: Mapping[str, Any],
) -> Calibration:
    """Calibrate a pipeline and write its card; see the options of ``longstride calibrate``.

    Raises:
        InputError: several settings at once, no such pipeline, or no prompts in the file.
    """
    from longstride.integrations.pipelines import calibrate_pipeline

    if len(nfes) > 1 or len(guidances) > 1:
        raise InputError("a pipeline is calibrated for one number of calls and one guidance scale at a time")
    nfe, guidance = nfes[0], guidances[0]
    samples = samples or fitted_samples(nfe)
    texts = None if prompts is None else prompts_in(prompts)
    options = size_of(size)
    check_writable(out)
    journal = out.with_name(f".{out.name}.unfinished")
    pipeline = load_pipeline(source, device, dtype)
    own = replace(default_settings(method), **settings)
    if not quiet:
        what = f"{type(pipeline).__name__}: fitting {samples} samples and holding out {held_out}"
        if isinstance(own, GaussNewtonSettings):
            what += f", at most about {most_calls(nfe, samples, held_out, own):,} network calls in samples"
        console.print(what, highlight=False)
        if journal.exists():
            console.print(f"going on with the calibration that was stopped ({journal})", highlight=False)
    with progress_bars() as say, _refusals():
        result = calibrate_pipeline(
            pipeline,
            nfe,
            prompts=texts,
            guidance_scale=guidance,
            negative_prompt=negative,
            samples=samples,
            held_out=held_out,
            batch_size=batch_size,
            seed=seed,
            options=options,
            method=method,
            journal=journal,
            progress=lambda done, total, what: say(what, done, total),
            **settings,
        )
    result.card.save(out)
    shutil.rmtree(journal, ignore_errors=True)
    return result


def draw_whole(
    source: str,
    out: Path,
    *,
    card: Path | None,
    solver: str,
    nfe: int | None,
    prompts: list[str],
    negative: str | None,
    guidance: float | None,
    size: str | None,
    num: int,
    compare: bool,
    dtype: str,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """Draw pictures with a pipeline; see the options of ``longstride sample``.

    Returns:
        What was made: solver, nfe, files, and lines to print.
    """
    from longstride.integrations.diffusers import LongstrideScheduler

    options: dict[str, Any] = {**size_of(size)}
    one_file = out.suffix.lower() == ".png"
    check_writable(out if one_file else out / "0000000.png", new_folders=True)
    loaded = None if card is None else load_any(card)
    if isinstance(loaded, CardBook) and nfe is None:
        raise InputError(f"{card} is a book of {loaded.contents}: say which with --nfe")
    calls = nfe or (8 if loaded is None or isinstance(loaded, CardBook) else loaded.nfe)
    pipeline = load_pipeline(source, device, dtype)
    config = pipeline.scheduler.config
    if guidance is None and isinstance(loaded, Card):
        guidance = loaded.model.guidance
    options |= {} if guidance is None else {"guidance_scale": guidance}
    options |= {} if negative is None else {"negative_prompt": negative}
    notes: list[str] = []

    def drawn(scheduler: Any) -> np.ndarray[Any, Any]:
        pipeline.scheduler = scheduler
        pictures = []
        for n, number in enumerate(seed_range("evaluation", seed, num)):
            given = {"prompt": prompts[n % len(prompts)]} if prompts else {}
            generator = torch.Generator().manual_seed(number)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", UserWarning)
                with _refusals():
                    asked = {"num_inference_steps": calls, "generator": generator, "output_type": "np"}
                    made = pipeline(**asked, **given, **options).images
            notes.extend(str(one.message) for one in told if "in its place" in str(one.message))
            pictures.append(made[0])
        return np.stack(pictures)

    if loaded is None:
        rows = {solver: drawn(LongstrideScheduler.from_config(config, solver=solver))}
    else:
        mine = LongstrideScheduler.from_card(loaded, config, solver=solver, guidance_scale=guidance)
        rows = {"calibrated": drawn(mine)}
        if compare:
            rows = {solver: drawn(LongstrideScheduler.from_config(config, solver=solver)), **rows}
    shown = {name: 2 * torch.from_numpy(found).permute(0, 3, 1, 2) - 1 for name, found in rows.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    if compare and one_file:
        comparison([(f"{name}\n{calls} calls", one[:20]) for name, one in shown.items()], out, title="Same noise")
        files = [str(out)]
    elif one_file:
        picture_grid(next(reversed(shown.values())), out, columns=min(5, num))
        files = [str(out)]
    else:
        out.mkdir(parents=True, exist_ok=True)
        files = [str(out / f"{name}-{n:03d}.png") for name, one in shown.items() for n in range(len(one))]
        for file, picture in zip(files, torch.cat(list(shown.values())), strict=True):
            picture_grid(picture[None], Path(file), columns=1)
    lines = [f"note: {note}" for note in dict.fromkeys(notes)]
    lines += [f"{num} pictures, {calls} network calls each", f"written to {out}"]
    return {"solver": list(rows)[-1], "nfe": calls, "files": files, "lines": lines}
