"""What ``longstride calibrate`` and ``longstride sample`` do with whole diffusers pipelines."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longstride.book import CardBook, load_any
from longstride.calibration import Calibration
from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
from longstride.calibration.method import configured
from longstride.card import Card
from longstride.cli.common import console, progress_bars, use_device
from longstride.cli.drawing import Drawing
from longstride.cli.making import Wanted, tell_of_journal
from longstride.cli.written import size_of
from longstride.errors import InputError, unknown
from longstride.evaluation.plots import comparison, picture_grid
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable

__all__ = ["PipelineOptions", "calibrate_whole", "draw_whole", "load_pipeline", "prompts_in"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PipelineOptions:
    """What a pipeline is loaded and called with; see the options of the commands. None: the pipeline's own.

    Attributes:
        negative: Negative prompt.
        size: Width and height, written as ``512x512``.
        dtype: Precision.
    """

    negative: str | None
    size: str | None
    dtype: str


def prompts_in(file: Path) -> list[str]:
    """The prompts of a text file, one per line, without empty lines and lines that begin with ``#``.

    Raises:
        InputError: the file cannot be read, or holds no prompt.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read prompts from {file}: {error}") from None
    if not (found := [line for line in lines if line and not line.startswith("#")]):
        raise InputError(f"{file} holds no prompts: one per line is expected")
    return found


def load_pipeline(source: str, device: str, dtype: str) -> Any:
    """A diffusers pipeline from a folder or the hub, safetensors only.

    Raises:
        InputError: no such pipeline, or an unknown dtype.
    """
    from diffusers import DiffusionPipeline

    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    try:
        # Older versions of diffusers know the first name only, newer versions warn of it.
        name = "torch_dtype" if "torch_dtype (" in str(DiffusionPipeline.from_pretrained.__doc__) else "dtype"
        pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True, **{name: _DTYPES[dtype]})
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"cannot load a pipeline from {source!r} ({type(error).__name__}: {reason})") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@contextmanager
def _refusals() -> Iterator[None]:
    """A pipeline's refusal of its options, told in one line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"the pipeline refuses its options: {str(error).partition(chr(10))[0]}") from error


def calibrate_whole(wanted: Wanted, prompts: Path | None, options: PipelineOptions) -> Calibration:
    """Calibrate a pipeline and write its card.

    Args:
        wanted: What was asked for; the grid and the base solver are the pipeline's.
        prompts: File of the prompts; None: the pipeline takes none.
        options: What the pipeline is called with.

    Raises:
        InputError: several settings at once, no such pipeline, or no prompts in the file.
    """
    from longstride.integrations.pipelines import calibrate_pipeline

    device = use_device(wanted.device)
    if wanted.many:
        raise InputError("a pipeline is calibrated for one number of calls and one guidance scale at a time")
    nfe = wanted.nfes[0]
    samples, held_out = wanted.batch or fitted_samples(nfe), wanted.held_out or HELD_OUT
    texts = None if prompts is None else prompts_in(prompts)
    size = size_of(options.size)
    check_writable(wanted.out)
    pipeline = load_pipeline(wanted.model, device, options.dtype)
    own = configured(wanted.way, None, wanted.settings)
    if not wanted.quiet:
        what = f"{type(pipeline).__name__}: fitting {samples} samples and holding out {held_out}"
        cost = wanted.way.cost(nfe, samples, held_out, own, 1)  # a call of the pipeline counts one, guided or not
        what += f", {cost}" if cost else ""
        console.print(what, highlight=False)
        tell_of_journal(wanted.journal)
    with progress_bars() as say, _refusals():
        result = calibrate_pipeline(
            pipeline,
            nfe,
            prompts=texts,
            guidance_scale=wanted.guidances[0],
            negative_prompt=options.negative,
            samples=samples,
            held_out=held_out,
            batch_size=wanted.batch_size,
            seed=wanted.seed,
            options=size,
            method=wanted.method,
            journal=wanted.journal,
            progress=lambda done, total, what: say(what, done, total),
            **wanted.settings,
        )
    result.card.save(wanted.out)
    shutil.rmtree(wanted.journal, ignore_errors=True)
    return result


@dataclass
class _Pictures:
    """Draws with one pipeline, from the same noise for every scheduler.

    Attributes:
        pipeline: The pipeline.
        prompts: Prompts, which take turns; none for a pipeline without prompts.
        seeds: One per picture.
        options: What the pipeline is called with.
        notes: What schedulers said of a setting that was put in the place of another.
    """

    pipeline: Any
    prompts: list[str]
    seeds: range
    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def by(self, scheduler: Any) -> torch.Tensor:
        """Pictures of a scheduler, ``(B, C, H, W)`` from -1 to 1."""
        self.pipeline.scheduler = scheduler
        pictures = []
        for n, number in enumerate(self.seeds):
            prompt = {"prompt": self.prompts[n % len(self.prompts)]} if self.prompts else {}
            generator = torch.Generator().manual_seed(number)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", UserWarning)
                with _refusals():
                    made = self.pipeline(generator=generator, output_type="np", **prompt, **self.options).images
            self.notes += [str(one.message) for one in told if "in its place" in str(one.message)]
            pictures.append(made[0])
        return 2 * torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) - 1


def draw_whole(asked: Drawing, prompts: list[str], options: PipelineOptions) -> dict[str, Any]:
    """Draw pictures with a pipeline.

    Args:
        asked: What is to be drawn.
        prompts: Prompts, which take turns; none for a pipeline without prompts.
        options: What the pipeline is called with.

    Returns:
        What was made: solver, nfe, files, and lines to print.

    Raises:
        InputError: a book and no number of calls, no such pipeline, or options that it refuses.
    """
    from longstride.integrations.diffusers import LongstrideScheduler

    device = use_device(asked.device)
    given: dict[str, Any] = {**size_of(options.size)}
    asked.check_out()
    loaded = None if asked.card is None else load_any(asked.card)
    if isinstance(loaded, CardBook) and asked.nfe is None:
        raise InputError(f"{asked.card} is a book of {loaded.contents}: say which with --nfe")
    calls = asked.nfe or (8 if loaded is None or isinstance(loaded, CardBook) else loaded.nfe)
    pipeline = load_pipeline(asked.model, device, options.dtype)
    config, guidance = pipeline.scheduler.config, asked.guidance
    if guidance is None and isinstance(loaded, Card):
        guidance = loaded.model.guidance
    given |= {} if guidance is None else {"guidance_scale": guidance}
    given |= {} if options.negative is None else {"negative_prompt": options.negative}
    seeds = seed_range("evaluation", asked.seed, asked.num)
    draw = _Pictures(pipeline, prompts, seeds, {"num_inference_steps": calls, **given})
    rows: dict[str, torch.Tensor] = {}
    if loaded is not None:
        mine = LongstrideScheduler.from_card(loaded, config, solver=asked.solver, guidance_scale=guidance)
        rows["calibrated"] = draw.by(mine)
    if loaded is None or asked.compare:
        rows = {asked.solver: draw.by(LongstrideScheduler.from_config(config, solver=asked.solver)), **rows}
    files = _written(asked, rows, calls)
    lines = [f"note: {note}" for note in dict.fromkeys(draw.notes)]
    lines += [f"{asked.num} pictures, {calls} network calls each", f"written to {asked.out}"]
    return {"solver": list(rows)[-1], "nfe": calls, "files": files, "lines": lines}


def _written(asked: Drawing, rows: dict[str, torch.Tensor], calls: int) -> list[str]:
    """Write the rows of pictures as one sheet, or every picture by itself; the files."""
    out = asked.out
    out.parent.mkdir(parents=True, exist_ok=True)
    if asked.compare and asked.one_file:
        comparison([(f"{name}\n{calls} calls", one[:20]) for name, one in rows.items()], out, title="Same noise")
        return [str(out)]
    if asked.one_file:
        picture_grid(next(reversed(rows.values())), out, columns=min(5, asked.num))
        return [str(out)]
    out.mkdir(parents=True, exist_ok=True)
    files = [str(out / f"{name}-{n:03d}.png") for name, one in rows.items() for n in range(len(one))]
    for file, picture in zip(files, torch.cat(list(rows.values())), strict=True):
        picture_grid(picture[None], Path(file), columns=1)
    return files
