"""Which solver suits a diffusers pipeline that nobody calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from longstride.calibration.choose import UNIVERSAL, Choice, choose
from longstride.integrations.counterparts import counterpart_of
from longstride.integrations.driving import SEEDS_APART, checked_options, entries_of, started
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.nodes import Nodes
from longstride.solvers.universal import usual_std

__all__ = ["choose_solver"]

#: Network calls at which samplers are compared, and samples.
_CALLS, _SAMPLES = 5, 3
#: A universal table begins at the first level of the schedule, and "leading" times begin below it.
_WHOLE = {"timestep_spacing": "trailing"}


def choose_solver(
    pipeline: Any,
    *,
    prompts: Sequence[str] | None = None,
    guidance_scale: float | None = None,
    data_std: float | None = None,
    negative_prompt: str | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    per_sample: Mapping[str, Sequence[Any]] | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> Choice:
    """Choose a solver for a diffusers pipeline by three samples; see :func:`longstride.choose`.

    ``LongstrideScheduler.from_config(pipe.scheduler.config, solver=choice.solver, solver_options=choice.options)`` runs
    it with any number of steps.

    Args:
        pipeline: The pipeline, as it will be used.
        prompts: Prompts, gone through in turn; default: plain prompts, if the pipeline takes any.
        guidance_scale: As in the call of the pipeline; default: the pipeline's own, and tables without guidance.
        data_std: Standard deviation of the data; default: what the solver ``longstride`` takes, which is EDM's, 1/2 if
            samples are clamped, and 1 for others.
        negative_prompt: As in the call of the pipeline.
        seed: Seed of the noise.
        options: Further options of the call, shared by all samples.
        per_sample: Options of the call with one entry per sample, gone through in turn.
        scheduler: Settings in place of the pipeline's.

    Raises:
        InputError: the pipeline cannot be driven from outside, or there is nothing to choose for its process.
    """
    asked = checked_options(pipeline, options)
    entries = entries_of(pipeline, asked, per_sample or {}, prompts, negative_prompt)
    if guidance_scale is not None:
        asked["guidance_scale"] = guidance_scale
    seeds = range(seed * SEEDS_APART, seed * SEEDS_APART + _SAMPLES)
    settings = {**_WHOLE, **(scheduler or {})}
    build = partial(PipelineDenoiser, pipeline, _CALLS, asked, entries, seeds, scheduler=settings)
    network = started(build, _SAMPLES, 0, 1)
    try:
        network.decide()
        probe = network.first.probe
        own, levels = probe.setup.settings, probe.setup.levels
        condition, threshold = {"index": torch.arange(_SAMPLES)}, own.threshold(calibrated=True)
        denoiser = own.denoiser(network, condition=condition, threshold=threshold)
        noise = network.states(_SAMPLES) / own.frame_alpha(levels)
        table = own.base_table(levels)
        if data_std is None:
            nodes = Nodes(table.alphas, table.sigmas, own.schedule)
            said = counterpart_of(UNIVERSAL).options(own.config, nodes)["data_std"]
            data_std = said or usual_std(own.schedule.family)
        return choose(denoiser, noise, table, data_std=data_std, guidance=guidance_scale)
    finally:
        network.close()
