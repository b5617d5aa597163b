"""Calibrating a diffusers pipeline as it is: its own network, prompts, guidance, precision and hooks.

A pipeline is turned into a function of a state and a level without touching it. It is called as always, but with a
scheduler whose times have no end and whose ``step`` hands the guided prediction out and waits for the next state. So
whatever the pipeline does between the network and the scheduler (classifier-free guidance and its rescaling, embedded
guidance, prompts, packing of latents, casting, offloading) is part of the function that is calibrated.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longstride.calibration.calibrate import Calibration, Progress, calibrate
from longstride.calibration.settings import HELD_OUT, fitted_samples
from longstride.card import ModelInfo
from longstride.denoiser import DIFFUSERS_PREDICTIONS, Denoiser, DynamicThreshold, as_denoiser
from longstride.errors import InputError, LongstrideError
from longstride.integrations.probe import Call, Probe
from longstride.solvers import build
from longstride.table import SolverTable
from longstride.zoo.model import weights_digest
from longstride.zoo.text import as_prompts

__all__ = ["PipelineDenoiser", "calibrate_pipeline"]

#: Live calls of a pipeline that are kept waiting: its embeddings are computed once per batch of prompts.
_MOST_CALLS = 64
#: Options of a call that are this module's own, or under which a pipeline does not make whole runs.
_REFUSED = (
    "generator",
    "num_inference_steps",
    "output_type",
    "latents",
    "timesteps",
    "sigmas",
    "denoising_start",
    "denoising_end",
    "strength",
    "image",
    "mask_image",
)


class PipelineDenoiser:
    """A pipeline as a network: called with states, times and the numbers of samples, in batches of one size.

    Args:
        pipeline: A diffusers pipeline.
        steps: Steps that it is asked for: they tell its own scheduler the levels.
        options: Of its calls, such as ``guidance_scale`` and ``height``.
        per_sample: Options that hold one entry per sample, such as ``prompt``.
        seeds: One per sample.
        batch_size: Samples per call.
        settings: Of the scheduler, in place of the pipeline's.
    """

    def __init__(
        self,
        pipeline: Any,
        steps: int,
        options: Mapping[str, Any],
        per_sample: Mapping[str, Sequence[Any]],
        seeds: Sequence[int],
        batch_size: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.pipeline, self.steps, self.options, self.per_sample = pipeline, steps, dict(options), per_sample
        self.seeds, self.batch_size, self.settings = seeds, batch_size, dict(settings)
        self._calls: OrderedDict[tuple[int, ...], Call] = OrderedDict()

    def __call__(self, x: Tensor, times: Tensor, index: Tensor) -> Tensor:
        numbers, time = index.tolist(), times.flatten()[0]
        outputs = []
        for begin in range(0, len(numbers), self.batch_size):
            part = tuple(numbers[begin : begin + self.batch_size])
            call = self.call(part)
            outputs.append(call(x[begin : begin + len(part)].to(call.state.dtype), time).to(x))
        return torch.cat(outputs)

    def call(self, numbers: tuple[int, ...]) -> Call:
        """The live call for some samples, begun where there is none."""
        if numbers not in self._calls:
            while len(self._calls) >= _MOST_CALLS:
                self._calls.popitem(last=False)[1].end()
            probe = Probe.from_config(self.pipeline.scheduler.config, **self.settings)
            own = {name: [values[n % len(values)] for n in numbers] for name, values in self.per_sample.items()}
            generators = [torch.Generator().manual_seed(self.seeds[n]) for n in numbers]
            asked = {"generator": generators, "num_inference_steps": self.steps, "output_type": "latent"}
            if "batch_size" in _parameters(self.pipeline):
                asked |= {"batch_size": len(numbers), "output_type": "np"}
            self._calls[numbers] = Call(self.pipeline, probe, {**asked, **own, **self.options}, len(numbers))
        self._calls.move_to_end(numbers)
        return self._calls[numbers]

    def close(self) -> None:
        """End all calls."""
        while self._calls:
            self._calls.popitem()[1].end()


def calibrate_pipeline(
    pipeline: Any,
    nfe: int,
    *,
    prompts: Sequence[str] | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    samples: int | None = None,
    held_out: int = HELD_OUT,
    batch_size: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    method: str = "gauss_newton",
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Calibration:
    """Calibrate a diffusers pipeline for ``nfe`` calls of its network (a guided pair counts as one).

    Args:
        pipeline: The pipeline, as it will be used: precision, offloading and quantisation stay as they are.
        nfe: Network calls per picture.
        prompts: Gone through in turn; default: sixteen plain ones. None of them for pipelines that take none.
        guidance_scale: As in the call of the pipeline; default: the pipeline's own.
        negative_prompt: Likewise.
        samples: Samples that are fitted; default: 96, and 128 up to 6 calls.
        held_out: Further ones that decide whether the fit is accepted.
        batch_size: Samples per call of the pipeline; default: 8, halved until one fits into memory.
        seed: Of the noise.
        options: Further options of the call: ``{"height": 512, "width": 512, "guidance_rescale": 0.7}``.
        scheduler: Settings in place of the pipeline's, such as ``{"timestep_spacing": "trailing"}``.
        method: As in :func:`longstride.calibrate`.
        journal: Likewise: a calibration that was killed goes on.
        progress: Likewise.
        **settings: Of the method.

    Returns:
        The calibration; ``result.card.save("card.json")``, then
        ``pipe.scheduler = LongstrideScheduler.from_card("card.json")``.

    Raises:
        InputError: the pipeline cannot be driven from outside, or bad settings.
    """
    samples = fitted_samples(nfe) if samples is None else samples
    total = samples + held_out
    takes = _parameters(pipeline)
    per_sample: dict[str, Sequence[Any]] = {}
    asked = dict(options or {})
    if refused := [name for name in _REFUSED if name in asked]:
        raise InputError(f"options must not hold {', '.join(refused)}: calibration sets them, or needs whole runs")
    if takes & {"strength", "mask_image", "control_image"} or hasattr(pipeline, "controlnet"):
        raise InputError(
            f"{type(pipeline).__name__} starts from a picture or is controlled by one: calibrate the text-to-image "
            "pipeline of the same network"
        )
    if "prompt" in takes and not {"prompt", "prompt_embeds"} & set(asked):
        per_sample["prompt"] = as_prompts(prompts)
    elif "class_labels" in takes and "class_labels" not in asked:
        per_sample["class_labels"] = range(1000)
    elif prompts is not None:
        raise InputError(f"{type(pipeline).__name__} takes no prompts")
    if negative_prompt is not None:
        per_sample["negative_prompt"] = [negative_prompt]
    if guidance_scale is not None:
        asked["guidance_scale"] = guidance_scale
    seeds = range(seed * 1_000_003, seed * 1_000_003 + total)
    size = batch_size or 8
    while True:
        if samples % size or held_out % size:
            raise InputError(f"samples and held_out must be multiples of the batch size {size}")
        network = PipelineDenoiser(pipeline, nfe, asked, per_sample, seeds, size, scheduler or {})
        try:
            first = network.call(tuple(range(size)))
            break
        except torch.OutOfMemoryError:
            if batch_size is not None or size == 1:
                raise
            size //= 2
    batch_size = size
    try:
        table = _base_table(first.probe)
        denoiser = _denoiser(network, first.probe, total)
        setup = first.probe.setup
        own = float(setup.levels.alphas[0]) if setup.settings.schedule.scaled else 1.0  # of the frame
        states = [network.call(tuple(range(b, b + batch_size))).state for b in range(0, total, batch_size)]
        noise = torch.cat([state.float() for state in states]) / own
        config = {name: value for name, value in first.probe.config.items() if not name.startswith("_")}
        result = calibrate(
            denoiser,
            noise,
            table,
            method=method,
            held_out=held_out,
            batch_size=batch_size,
            model=_info(pipeline, guidance_scale, tuple(noise.shape[1:])),
            seed=seed,
            journal=None if journal is None else Path(journal) / _identity(asked, per_sample, scheduler),
            progress=progress,
            **settings,
        )
    finally:
        network.close()
    return replace(result, card=result.card.model_copy(update={"scheduler": config}))


def _identity(*parts: Any) -> str:
    """A name for what is asked of a pipeline: a journal of other prompts or options is another journal."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _parameters(pipeline: Any) -> set[str]:
    return set(inspect.signature(type(pipeline).__call__).parameters)


def _base_table(probe: Probe) -> SolverTable:
    """DDIM on the levels that the pipeline would visit, in the denoiser's frame."""
    setup = probe.setup
    if setup.settings.schedule.scaled:
        return build("ddim", setup.levels.ratios, schedule=setup.settings.schedule)
    return build("ddim", setup.levels.sigmas, alphas=setup.levels.alphas, schedule=setup.settings.schedule)


def _denoiser(network: PipelineDenoiser, probe: Probe, total: int) -> Denoiser:
    setup, config = probe.setup, probe.config
    kind = setup.settings.prediction
    threshold = probe.threshold
    if isinstance(threshold, DynamicThreshold) and config.process != "vp":
        raise InputError("thresholding is for pixels of variance-preserving networks")
    return as_denoiser(
        network,
        setup.settings.schedule,
        DIFFUSERS_PREDICTIONS[kind],
        condition={"index": torch.arange(total)},
        threshold=threshold,
    )


def _info(pipeline: Any, guidance: float | None, shape: tuple[int, ...]) -> ModelInfo:
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    name = str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__)
    try:
        digest = None if network is None else weights_digest(network)
    except (LongstrideError, RuntimeError, NotImplementedError):  # offloaded or quantised weights cannot be read
        digest = None
    return ModelInfo(name=name, fingerprint=digest, guidance=guidance, shape=shape)
