"""Calibrating a diffusers pipeline as it is: its own network, prompts, guidance, precision and hooks.

The pipeline becomes a function of a state and a level without being changed, see
:mod:`longstride.integrations.pipeline_denoiser`. That function is calibrated like any network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longstride.calibration.calibrate import Calibration, Progress, calibrate
from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
from longstride.calibration.method import Method
from longstride.integrations.choosing import choose_solver
from longstride.integrations.driving import SEEDS_APART, checked_options, entries_of, started
from longstride.integrations.guidance_seen import GuidanceWatch
from longstride.integrations.made_for import denoisers_of, made_for
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.integrations.sample_guarded import sample_guarded
from longstride.integrations.use_card import use_card

__all__ = ["calibrate_pipeline", "choose_solver", "sample_guarded", "use_card"]


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
    per_sample: Mapping[str, Sequence[Any]] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    method: str | Method = "gauss_newton",
    monitor: int | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Calibration:
    """Calibrate a diffusers pipeline for ``nfe`` calls of its network (a guided pair counts as one).

    Args:
        pipeline: The pipeline, as it will be used: precision, offloading and quantisation stay as they are.
        nfe: Network calls per picture.
        prompts: Prompts, gone through in turn; default: sixteen plain prompts. Leave them out if the pipeline takes no
            prompts.
        guidance_scale: As in the call of the pipeline; default: the pipeline's own.
        negative_prompt: As in the call of the pipeline.
        samples: Number of samples that are fitted; default: 96, and 128 up to 6 calls.
        held_out: Number of further samples, which decide whether the fit is accepted.
        batch_size: Samples per call of the pipeline; default: 8, halved until a batch fits into memory.
        seed: Seed of the noise.
        options: Further options of the call, shared by all samples: ``{"height": 512, "guidance_rescale": 0.7}``.
        per_sample: Options of the call with one entry per sample, gone through in turn as prompts are: lists of
            pictures, or tensors ``(N, *)``: ``{"image": pictures, "control_image": maps}``.
        scheduler: Settings in place of the pipeline's, such as ``{"timestep_spacing": "trailing"}``.
        method: As in :func:`longstride.calibrate`.
        monitor: As in :func:`longstride.calibrate`; default: as many as there are samples, since some pipelines cannot
            start from other noise than their own.
        journal: As in :func:`longstride.calibrate`: a calibration that was killed goes on.
        progress: As in :func:`longstride.calibrate`.
        **settings: Settings of the method.

    Returns:
        The calibration; ``result.card.save("card.json")``, then
        ``pipe.scheduler = LongstrideScheduler.from_card("card.json")``.

    Raises:
        InputError: the pipeline cannot be driven from outside, or bad settings.
        OutOfMemoryError: torch's; not even a batch of one fits into memory, or a batch of ``batch_size``.
    """
    samples = fitted_samples(nfe) if samples is None else samples
    total = samples + held_out
    asked = checked_options(pipeline, options)
    entries = entries_of(pipeline, asked, per_sample or {}, prompts, negative_prompt)
    if guidance_scale is not None:
        asked["guidance_scale"] = guidance_scale
    seeds = range(seed * SEEDS_APART, seed * SEEDS_APART + total)
    build = partial(PipelineDenoiser, pipeline, nfe, asked, entries, seeds, scheduler=scheduler)
    network = started(build, samples, held_out, batch_size)
    try:
        network.decide()
        probe = network.first.probe
        own, levels = probe.setup.settings, probe.setup.levels
        table = own.base_table(levels)
        index, threshold = torch.arange(total), own.threshold(calibrated=True)
        denoiser = own.denoiser(network, condition={"index": index}, threshold=threshold)
        noise = network.states(total) / own.frame_alpha(levels)
        config = {name: value for name, value in probe.config.items() if not name.startswith("_")}
        with GuidanceWatch(denoisers_of(pipeline).values(), everywhere=True) as watch:
            seen = watch.read(network.handed())
        spent = network.asked
        made = made_for(
            pipeline,
            asked,
            entries,
            shape=network.layout.shape,
            request=probe.setup.request,
            seen=None if seen is None else seen.weights,
            told=watch.told,
        )
        result = calibrate(
            denoiser,
            noise,
            table,
            method=method,
            held_out=held_out,
            batch_size=network.batch_size,
            monitor=total if monitor is None else monitor,
            model=made.model,
            seed=seed,
            journal=None if journal is None else Path(journal) / network.calls.arguments.identity,
            progress=progress,
            **settings,
        )
    finally:
        network.close()
    calls = result.calls + spent
    known = {"scheduler": config, "call": made.call, "calls": calls}
    return replace(result, calls=calls, card=result.card.model_copy(update=known))
