"""What ``longstride sample`` does with whole diffusers pipelines: pictures, videos and sound."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from longstride.book import CardBook, load_any
from longstride.card import Card
from longstride.cli.common import progress_bars, use_device
from longstride.cli.drawing import Drawing
from longstride.cli.made import Made, frame_rate, made_by, sample_rate, write_sound, write_video
from longstride.cli.pipeline_errors import refusals
from longstride.cli.whole_pipelines import PipelineOptions, load_pipeline
from longstride.cli.with_card import put_card
from longstride.errors import InputError
from longstride.evaluation.plots import comparison, picture_grid
from longstride.evaluation.seeds import seed_range

__all__ = ["Caller", "draw_whole"]


@dataclass
class Caller:
    """Calls one pipeline for one sample after another, with the same noise for every scheduler.

    Attributes:
        pipeline: The pipeline; its scheduler is set by the caller.
        prompts: Prompts, which take turns; none for a pipeline without prompts.
        options: What the user wrote.
        guidance: Guidance scale, or None for the pipeline's own.
        notes: What schedulers said of a setting that was put in the place of another.
        known: Further arguments of the call, which a card knows.
    """

    pipeline: Any
    prompts: list[str]
    options: PipelineOptions
    guidance: float | None
    notes: list[str] = field(default_factory=list)
    known: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, number: int, steps: int, *, latent: bool = False) -> dict[str, Any]:
        """Arguments of the call for one sample.

        Args:
            number: Number of the sample, from 0.
            steps: Steps that are asked for.
            latent: Whether the last states are enough, if the pipeline can leave out its decoder.
        """
        from longstride.integrations.anatomy import takes

        taken = takes(self.pipeline)
        given: dict[str, Any] = {} if self.guidance is None else {"guidance_scale": self.guidance}
        given |= {} if self.options.negative is None else {"negative_prompt": self.options.negative}
        if self.prompts:
            given["prompt"] = self.prompts[number % len(self.prompts)]
        if "class_labels" in taken and "class_labels" not in self.options.call.names:
            given["class_labels"] = [number % 1000]
        if "output_type" in taken and latent and _has_latents(self.pipeline):
            given["output_type"] = "latent"
        elif taken.get("output_type") == "pil":
            given["output_type"] = "np"  # before any rounding; what has no pictures keeps its own form
        return {"num_inference_steps": steps, **given, **self.options.call.of(number), **self.known}

    def call(self, arguments: Mapping[str, Any], seed: int) -> Any:
        """Call the pipeline.

        Args:
            arguments: As of :meth:`arguments`.
            seed: Seed of the noise.

        Raises:
            InputError: the pipeline refuses its arguments.
        """
        generator = torch.Generator().manual_seed(seed)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            with refusals(self.pipeline, arguments):
                made = self.pipeline(generator=generator, **arguments)
        self.notes += [str(one.message) for one in told if "in its place" in str(one.message)]
        return made


def draw_whole(asked: Drawing, prompts: list[str], options: PipelineOptions) -> dict[str, Any]:
    """Draw with a pipeline, and write pictures, videos and sound.

    Args:
        asked: What is to be drawn.
        prompts: Prompts, which take turns; none for a pipeline without prompts.
        options: What the pipeline is called with.

    Returns:
        What was made: solver, nfe, files, and lines to print.

    Raises:
        CardError: the card is of other weights, or of another call.
        InputError: a book and no number of calls, no such pipeline, or options that it refuses.
    """
    from longstride.integrations.diffusers import LongstrideScheduler

    device = use_device(asked.device)
    _ = options.call
    asked.check_out()
    loaded = None if asked.card is None else load_any(asked.card)
    if isinstance(loaded, CardBook) and asked.nfe is None:
        raise InputError(f"{asked.card} is a book of {loaded.contents}: say which with --nfe")
    calls = asked.nfe or (8 if loaded is None or isinstance(loaded, CardBook) else loaded.nfe)
    pipeline = load_pipeline(asked.model, device, options.dtype)
    caller = Caller(pipeline, prompts, options, asked.guidance)
    first = caller.arguments(0, calls)
    options.check(pipeline, **{name: first.get(name) for name in ("prompt", "class_labels", "guidance_scale")})
    schedulers: dict[str, Any] = {}
    if loaded is None or asked.compare:
        schedulers[asked.solver] = LongstrideScheduler.from_config(pipeline.scheduler.config, solver=asked.solver)
    if loaded is not None:
        schedulers["calibrated"] = _with_card(caller, loaded, first, asked)
    rows: dict[str, list[Made]] = {name: [] for name in schedulers}
    seeds, done, total = seed_range("evaluation", asked.seed, asked.num), 0, asked.num * len(schedulers)
    with progress_bars() as say:
        for name, scheduler in schedulers.items():
            pipeline.scheduler = scheduler
            for n, seed in enumerate(seeds):
                say("drawing", done, total)
                rows[name] += made_by(pipeline, caller.call(caller.arguments(n, calls), seed))[:1]
                done += 1
        say("drawing", done, total)
    files, remarks = _Files(asked, pipeline, first).write(rows, calls)
    lines = [f"note: {note}" for note in dict.fromkeys([*caller.notes, *remarks])]
    lines += [f"{asked.num} {_what(rows)}, {calls} network calls each", f"written to {asked.out}"]
    return {"solver": list(rows)[-1], "nfe": calls, "files": files, "lines": lines}


def _with_card(caller: Caller, loaded: Card | CardBook, arguments: Mapping[str, Any], asked: Drawing) -> Any:
    """The scheduler of a card or a book; what the card knows of the call becomes part of the caller's."""
    from longstride.integrations.diffusers import LongstrideScheduler

    pipeline, config = caller.pipeline, caller.pipeline.scheduler.config
    other = isinstance(loaded, Card) and asked.nfe not in (None, loaded.nfe)
    checked = {**arguments, "num_inference_steps": loaded.nfe} if other and isinstance(loaded, Card) else arguments
    completed, notes = put_card(pipeline, loaded, checked, any_model=asked.any_model)
    caller.known = {name: value for name, value in completed.items() if name not in arguments}
    caller.notes += notes
    if not other:
        return pipeline.scheduler
    # For another number of calls the solver runs, and says so.
    guidance = completed.get("guidance_scale")
    return LongstrideScheduler.from_card(loaded, config, solver=asked.solver, guidance_scale=guidance)


def _has_latents(pipeline: Any) -> bool:
    """Whether a pipeline's call knows ``output_type="latent"``."""
    try:
        return '"latent"' in inspect.getsource(inspect.unwrap(type(pipeline).__call__))
    except (OSError, TypeError):  # a class without a file
        return False


def _what(rows: Mapping[str, list[Made]]) -> str:
    """What was made, for people."""
    made = next(iter(rows.values()))[0]
    names = {"pictures": made.picture, "videos": made.video, "sounds": made.sound}
    return " and ".join(name for name, one in names.items() if one is not None)


@dataclass(frozen=True)
class _Files:
    """Where and how samples are written.

    Attributes:
        asked: What is to be drawn.
        pipeline: The pipeline.
        arguments: Arguments of its call, which may tell the frames per second.
    """

    asked: Drawing
    pipeline: Any
    arguments: Mapping[str, Any]

    def write(self, rows: Mapping[str, list[Made]], calls: int) -> tuple[list[str], list[str]]:
        """Write all samples; the files, and what is to be said of them."""
        out = self.asked.out
        (out.parent if self.asked.one_file else out).mkdir(parents=True, exist_ok=True)
        files = self._stills(rows, calls)
        remarks: list[str] = []
        for name, one in rows.items():
            if not self.asked.compare and name != list(rows)[-1]:
                continue
            for n, made in enumerate(one):
                place = self._place(name, n)
                if made.video is not None:
                    rate = frame_rate(self.pipeline, self.arguments)
                    written = write_video(made.video, place.with_suffix(".mp4"), rate)
                    files.append(str(written))
                    if written.suffix != ".mp4":
                        remarks.append("videos are folders of frames: for .mp4, pip install av")
                if made.sound is not None:
                    file = place.with_suffix(".wav")
                    write_sound(made.sound, file, sample_rate(self.pipeline))
                    files.append(str(file))
        return files, remarks

    def _place(self, name: str, number: int) -> Path:
        """Path of one sample, with a suffix that is to be replaced."""
        out = self.asked.out
        if not self.asked.one_file:
            return out / f"{name}-{number:03d}.x"
        own = f"-{name}" if self.asked.compare else ""
        return out.with_name(f"{out.stem}{own}-{number:03d}.x")

    def _stills(self, rows: Mapping[str, list[Made]], calls: int) -> list[str]:
        """Write pictures, or the middle frames of videos, as one sheet; or every picture by itself."""
        stills = {name: [one.still for one in made if one.still is not None] for name, made in rows.items()}
        if not all(stills.values()):
            return []
        sheets = {name: torch.stack(_alike(one)) for name, one in stills.items()}
        out, asked = self.asked.out, self.asked
        if asked.compare and asked.one_file:
            comparison([(f"{name}\n{calls} calls", one[:20]) for name, one in sheets.items()], out, title="Same noise")
            return [str(out)]
        if asked.one_file:
            picture_grid(next(reversed(sheets.values())), out, columns=min(5, asked.num))
            return [str(out)]
        files = []
        for name, made in rows.items():
            for n, one in enumerate(made):
                if one.picture is not None:
                    file = self._place(name, n).with_suffix(".png")
                    picture_grid(one.picture[None], file, columns=1)
                    files.append(str(file))
        return files


def _alike(pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    """Pictures of one size: the corner of each that all have. Pictures of conditions may differ in size."""
    channels = max(one.shape[0] for one in pictures)
    height, width = (min(one.shape[axis] for one in pictures) for axis in (1, 2))
    return [one[:, :height, :width].expand(channels, -1, -1) for one in pictures]
