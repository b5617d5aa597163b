"""The trials of calibration: the card, the function that it was made for, and the user's next call."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.pipelines.records import KINDS, Outcome, of_error
from benchmarks.pipelines.sampling import STEPS, Drawing, Seen, draws, relative, set_scheduler, watched
from longstride.card import Card
from longstride.integrations.call_arguments import CallArguments
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.integrations.pipelines import calibrate_pipeline
from longstride.integrations.plan import Plan
from longstride.integrations.use_card import use_card

__all__ = ["BATCH", "PROMPTS", "Call", "NoCall", "calibration_trials", "call_of"]

#: Samples per call.
BATCH = 2
PROMPTS = ("a cat", "two dogs")
#: Questions between two times that the same question is asked.
_BETWEEN = 40
#: Largest relative difference of predictions that count as the same.
_SAME = 1e-5
#: What a calibration sets itself.
_ITS_OWN = (
    "batch_size",
    "generator",
    "num_inference_steps",
    "output_type",
    "return_dict",
    "latents",
    "prompt",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)


@dataclass(frozen=True)
class Call:
    """What a pipeline is calibrated for, and called with.

    Attributes:
        options: Arguments that all samples share.
        per_sample: Arguments with one entry per sample.
        guidance: Guidance scale, or None for the pipeline's own.
        samples: Samples per call.
        single: Whether the pipeline takes one prompt and no lists; ``samples`` is then 1.
        latent: Whether the pipeline hands out states.
    """

    options: dict[str, Any]
    per_sample: dict[str, Sequence[Any]]
    guidance: float | None
    samples: int = BATCH
    single: bool = False
    latent: bool = True

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments that all samples share, guidance among them."""
        return self.options if self.guidance is None else {**self.options, "guidance_scale": self.guidance}

    def arguments(self, pipeline: Any, shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Arguments of an ordinary call for the first samples.

        Args:
            pipeline: The pipeline.
            shared: Arguments that all samples share; default: :attr:`shared`.
        """
        asked = {n: v for n, v in (self.shared if shared is None else shared).items() if n not in self.per_sample}
        every = CallArguments(STEPS, asked, self.per_sample, range(BATCH), single=self.single, latent=self.latent)
        return every.of(range(self.samples), pipeline)

    def told(self, pipeline: Any) -> dict[str, Any]:
        """Arguments that ``use_card`` is told: those of an ordinary call without what belongs to one call alone."""
        left_out = ("prompt", "generator", "num_inference_steps", "output_type", "batch_size")
        return {name: value for name, value in self.arguments(pipeline).items() if name not in left_out}


class NoCall(Exception):
    """A pipeline takes neither two samples nor one; the message is its own."""


def call_of(drawing: Drawing) -> Call:
    """What a pipeline is calibrated for: the inputs of its tests, for two samples if it takes two at a time.

    Raises:
        NoCall: it takes neither two samples nor one.
    """
    asked = _asked(drawing)
    pictures = {name: value for name, value in asked.options.items() if _is_picture(value)}
    rest = {name: value for name, value in asked.options.items() if name not in pictures}
    own = {**asked.per_sample, **{name: _entries(value) for name, value in pictures.items()}}
    forms = [asked, replace(asked, options=rest, per_sample=own)] if pictures else [asked]
    forms += [replace(forms[-1], samples=1), replace(forms[-1], samples=1, single=True)]
    reason = ""
    for call in forms:
        try:
            first = _first_state(drawing, call)
        except Exception as error:
            reason = reason or of_error(error).remark
            continue
        if first is None or len(first) % call.samples == 0:
            return call
        reason = reason or f"it makes {len(first)} states for {call.samples} samples"
    raise NoCall(reason)


def _first_state(drawing: Drawing, call: Call) -> Tensor | None:
    """The first state of an ordinary call, or None if the pipeline's scheduler makes no step."""
    pipeline, seen = drawing.built.pipeline, list[Seen]()
    own = pipeline.scheduler
    set_scheduler(pipeline, watched(copy.deepcopy(own), seen))
    try:
        with torch.no_grad():
            draws(pipeline, call.arguments(pipeline))
    finally:
        set_scheduler(pipeline, own)
    return seen[0].state if seen else None


def _asked(drawing: Drawing) -> Call:
    """The inputs of the pipeline's tests, without what a calibration sets itself, for whole runs."""
    found = drawing.arguments()
    options = {name: value for name, value in found.items() if name not in _ITS_OWN and name in drawing.takes}
    guidance = options.pop("guidance_scale", None)
    per_sample: dict[str, Sequence[Any]] = {}
    if "prompt" in drawing.takes and "prompt_embeds" not in options:
        per_sample["prompt"] = PROMPTS
    if "strength" in drawing.takes:
        options["strength"] = 1.0
    if "class_labels" in drawing.takes:
        options.pop("class_labels", None)
        per_sample["class_labels"] = [1, 2]
    if isinstance(text := options.get("negative_prompt"), (str, list)):
        per_sample["negative_prompt"] = [text if isinstance(text, str) else text[0]]
        del options["negative_prompt"]
    return Call(options, per_sample, guidance, latent=drawing.latent)


def _is_picture(value: Any) -> bool:
    """Whether a value is one picture, or a batch of one: an array of at least two axes for every sample."""
    return isinstance(value, Image.Image) or (isinstance(value, Tensor) and value.ndim > 2 and len(value) == 1)


def _entries(value: Any) -> Any:
    return torch.cat([value] * BATCH) if isinstance(value, Tensor) else [value] * BATCH


def calibration_trials(drawing: Drawing) -> Iterator[tuple[str, Outcome]]:
    """Calibrate a pipeline with few samples, run the card, ask the calibrated function, and draw as before.

    Yields:
        Names of trials with their outcomes.
    """
    pipeline = drawing.built.pipeline
    try:
        call = call_of(drawing)
    except NoCall as error:
        for name in KINDS["calibration"]:
            yield name, Outcome("not tried", f"its call takes no list of prompts: {error}")
        return
    before = _next_picture(drawing)
    try:
        card = _card(pipeline, call)
        found = Outcome("calibrated")
    except Exception as error:
        card, found = None, of_error(error)
    yield "calibration", found
    after = _next_picture(drawing)
    yield "next_call", _same_picture(before, after)
    if card is None:
        for name in ("card", "function"):
            yield name, Outcome("not tried", "there is no card")
        return
    run = _Run()
    yield "card", _use(pipeline, card, call, run)
    yield "function", _function(pipeline, call, run)


def _card(pipeline: Any, call: Call) -> Card:
    settings: dict[str, Any] = {"samples": BATCH, "held_out": BATCH, "iterations": 1, "scouts": 0, "reference_steps": 8}
    per_sample = dict(call.per_sample)
    if "prompt" in per_sample:
        settings["prompts"] = per_sample.pop("prompt")
    if "negative_prompt" in per_sample:
        settings["negative_prompt"] = per_sample.pop("negative_prompt")[0]
    if per_sample:
        settings["per_sample"] = per_sample
    return calibrate_pipeline(
        pipeline,
        STEPS,
        options=call.options,
        guidance_scale=call.guidance,
        batch_size=call.samples,
        **settings,
    ).card


def _next_picture(drawing: Drawing) -> Tensor | str:
    """The picture of an ordinary call, or what the call says."""
    try:
        with torch.no_grad():
            return draws(drawing.built.pipeline, drawing.arguments())
    except Exception as error:
        return of_error(error).remark


def _same_picture(before: Tensor | str, after: Tensor | str) -> Outcome:
    if isinstance(before, str) or isinstance(after, str):
        return Outcome("fault", f"the call after the calibration: {after}")
    if torch.equal(before.nan_to_num(), after.nan_to_num()):
        return Outcome("same")
    return Outcome("differs", "", relative(after, before))


@dataclass
class _Run:
    """A run with the card.

    Attributes:
        steps: What the scheduler was handed.
        plan: Times and levels of the run; None before the run.
    """

    steps: list[Seen] = field(default_factory=list)
    plan: Plan | None = None


def _use(pipeline: Any, card: Card, call: Call, run: _Run) -> Outcome:
    """Run a card in the pipeline that it was made in, at the same call, and keep what its scheduler is handed."""
    own = pipeline.scheduler
    try:
        completed = use_card(pipeline, card, **call.told(pipeline))
        scheduler = watched(pipeline.scheduler, run.steps)
        with torch.no_grad():
            pipeline(**call.arguments(pipeline, completed))
        run.plan = scheduler.setup.plan
        return Outcome("used")
    except Exception as error:
        return of_error(error)
    finally:
        set_scheduler(pipeline, own)


def _function(pipeline: Any, call: Call, run: _Run) -> Outcome:
    """Whether the function that a calibration asks is what the scheduler was handed, also after other questions."""
    if run.plan is None:
        return Outcome("not tried", "the card did not run")
    network = PipelineDenoiser(
        pipeline, STEPS, call.shared, call.per_sample, range(BATCH), call.samples, single=call.single
    )
    plan, index = run.plan, torch.arange(call.samples)

    def ask(k: int, state: Tensor) -> Tensor:
        way = network.at(plan.times, plan.ratios, k) if network.positional else network
        return way(state[: call.samples].float(), torch.tensor([plan.times[k]]), index)

    def furthest() -> float:
        found = 0.0
        for k, step in enumerate(run.steps):
            answer = ask(k, step.state)
            handed = step.output[: call.samples, : answer.shape[1]].float()  # without a learned variance
            found = max(found, relative(answer, handed))
        return found

    try:
        with torch.no_grad():
            first = furthest()
            for n in range(_BETWEEN):
                k = (1 + 2 * n) % len(run.steps)
                ask(k, run.steps[k].state * (1 if k == 0 else 0.9 + 0.005 * n))
            difference = max(first, furthest())
    except Exception as error:
        return of_error(error)
    finally:
        network.close()
    return Outcome("same" if difference <= _SAME else "differs", "", difference)
