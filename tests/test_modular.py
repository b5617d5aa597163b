"""Modular pipelines: sampled, calibrated as what they are, and run with their card."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_modular import MODULAR, drawn, make_modular

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.integrations.pipelines import calibrate_pipeline, use_card

STEPS = 4
FEW: dict[str, Any] = {"samples": 4, "held_out": 4, "batch_size": 4, "method": "iia", "reference_steps": 8}


def handed_over(pipeline: Any, options: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the scheduler of the pipeline, which is put back, is handed at every step of a run: output and state."""
    seen, step = list[tuple[torch.Tensor, torch.Tensor]](), pipeline.scheduler.step

    def watched(output: torch.Tensor, t: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((output.clone(), sample.clone()))
        return step(output, t, sample, *args, **kwargs)

    pipeline.scheduler.step = watched
    try:
        drawn(pipeline, **options)
    finally:
        del pipeline.scheduler.step
    return seen


@pytest.mark.parametrize("name", MODULAR)
def test_our_ddim_is_the_euler_method_of_the_pipeline(name: str) -> None:
    pipeline, options = make_modular(name)
    own = drawn(pipeline, **options, num_inference_steps=STEPS)
    ours = LongstrideScheduler.from_config(pipeline.scheduler.config, solver="ddim")
    pipeline.update_components(scheduler=ours)
    made = drawn(pipeline, **options, num_inference_steps=STEPS)
    assert float((made - own).abs().max()) <= 1e-5 * float(own.abs().max())


@pytest.mark.parametrize("name", MODULAR)
def test_the_card_runs_on_the_function_that_was_calibrated(name: str) -> None:
    pipeline, options = make_modular(name)
    theirs, before = pipeline.scheduler, drawn(pipeline, **options, num_inference_steps=STEPS)
    card = calibrate_pipeline(pipeline, STEPS, options=options, **FEW).card
    assert torch.equal(drawn(pipeline, **options, num_inference_steps=STEPS), before)
    call = use_card(pipeline, card, **options)
    seen, plan = handed_over(pipeline, call), pipeline.scheduler.setup.plan
    assert pipeline.scheduler.setup.calibrated
    pipeline.update_components(scheduler=theirs)
    network = PipelineDenoiser(pipeline, STEPS, options, {}, range(4), 4)
    for k, (output, state) in enumerate(seen):
        at = network.at(plan.times, plan.ratios, k) if network.positional else network
        found = at(state, torch.full((4,), float(plan.times[k])), torch.arange(4))
        assert float((found - output).abs().max()) <= 1e-5 * float(output.abs().max()), k
    network.close()


def test_only_options_of_blocks_that_run_count() -> None:
    pipeline, options = make_modular("flux")
    card = calibrate_pipeline(pipeline, STEPS, options=options, **FEW).card
    assert card.call is not None
    assert "strength" not in card.call.settings
    latents = torch.zeros(4, 16, 4, 4)
    with pytest.raises(ls.CardError, match=r"strength=0.6 does not make a whole run.*this call has one"):
        use_card(pipeline, card, **options, image_latents=latents)
    with pytest.raises(ls.InputError, match="only whole runs can be calibrated"):
        calibrate_pipeline(pipeline, STEPS, options={**options, "image_latents": latents}, **FEW)
