"""The function that calibration sees is the one that a run with a card is handed, whatever the pipeline reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_groups import PICTURES, make_group
from tiny_pipelines import make_pipeline

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.layout import Layout
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.integrations.pipelines import calibrate_pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

#: Groups, and whether their answers depend on the number of the step.
POSITIONAL = {
    "lumina2": True,
    "skip_layers": True,
    "wan": True,
    "two_networks": True,
    "wan_picture": False,
    "z_image": True,
    "controlnet": True,
    "pix2pix": False,
    "inpaint_nine": False,
    "kontext": False,
    "fill": False,
    "control": False,
    "guided": True,
}
STEPS = 5


def picture(pipeline: Any, options: dict[str, Any]) -> torch.Tensor:
    """What the user's own call makes."""
    generators = [torch.Generator().manual_seed(n) for n in range(4)]
    found = pipeline(**options, generator=generators, num_inference_steps=3, output_type="latent")[0]
    return found.clone()


def handed_over(pipeline: Any, options: dict[str, Any]) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Any]:
    """What the scheduler of a run is handed at every step: output and state."""
    theirs, seen = pipeline.scheduler, list[tuple[torch.Tensor, torch.Tensor]]()
    scheduler = LongstrideScheduler.from_config(theirs.config, solver="dpmpp_2m")
    step = scheduler.step

    def watched(output: torch.Tensor, t: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((output.clone(), sample.clone()))
        return step(output, t, sample, *args, **kwargs)

    scheduler.step = watched  # type: ignore[method-assign]
    pipeline.scheduler = scheduler
    generators = [torch.Generator().manual_seed(n) for n in range(4)]
    try:
        pipeline(**options, generator=generators, num_inference_steps=STEPS, output_type="latent")
    finally:
        pipeline.scheduler = theirs
    return seen, scheduler.setup.plan


@pytest.mark.parametrize("name", POSITIONAL)
def test_the_function_is_what_step_is_handed(name: str, tmp_path: Path) -> None:
    pipeline, options = make_group(name, tmp_path)
    before = picture(pipeline, options)
    seen, plan = handed_over(pipeline, options)
    assert len(seen) == STEPS
    network = PipelineDenoiser(pipeline, STEPS, options, {}, range(4), 4)
    assert network.decide() is POSITIONAL[name]
    index, generator = torch.arange(4), torch.Generator().manual_seed(5)

    def answer(x: torch.Tensor, k: int) -> torch.Tensor:
        at = network.at(plan.times, plan.ratios, k) if network.positional else network
        return at(x, torch.full((4,), float(plan.times[k])), index)

    states = network.states(4)
    for _ in range(40):
        k = int(torch.randint(STEPS, (1,), generator=generator))
        answer(torch.randn(states.shape, generator=generator) if k else states, k)
    for k in [*range(STEPS), *reversed(range(STEPS))]:
        output, state = seen[k]
        found, scale = answer(state, k), float(output.abs().max())
        assert float((found - output).abs().max()) <= 1e-5 * scale, k
    forwards = {part: part.__dict__.get("forward") for part in pipeline.components.values() if part is not None}
    network.close()
    assert torch.equal(picture(pipeline, options), before)
    assert all("forward" not in part.__dict__ for part in forwards if isinstance(part, torch.nn.Module))


@pytest.mark.parametrize(
    ("name", "why"),
    [("momentum", "answers one question in two ways"), ("mean_flow", "told the time of another step")],
)
def test_what_is_no_function_of_state_level_and_step_is_refused(name: str, why: str, tmp_path: Path) -> None:
    pipeline, options = make_group(name, tmp_path)
    before = picture(pipeline, options)
    network = PipelineDenoiser(pipeline, STEPS, options, {}, range(4), 4)
    with pytest.raises(ls.InputError, match=why):
        network.decide()
    network.close()
    assert torch.equal(picture(pipeline, options), before)


def test_step_caches_are_refused(tmp_path: Path) -> None:
    pipeline, options = make_group("wan", tmp_path)
    pipeline.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(ls.InputError, match="First Block Cache"):
        PipelineDenoiser(pipeline, STEPS, options, {}, range(4), 4).decide()


@pytest.mark.parametrize("name", ["wan", "kontext"])
def test_common_calls_are_not_computed(name: str, tmp_path: Path) -> None:
    """A question in the middle of a run costs one network call, as in a loop without an end."""
    pipeline, options = make_group(name, tmp_path)
    network = PipelineDenoiser(pipeline, STEPS, options, {}, range(4), 4)
    network.decide()
    network.force(positional=True)
    told, calls = network.told, [0]
    handle = pipeline.transformer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    forward, inner = type(pipeline.transformer).forward, [0]

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        inner[0] += 1
        return forward(self, *args, **kwargs)

    type(pipeline.transformer).forward = counted
    try:
        x = network.states(4)
        for k in (4, 3, 2, 3, 4):
            network.at(told.times, told.ratios, k)(0.9 * x, torch.zeros(4), torch.arange(4))
    finally:
        type(pipeline.transformer).forward = forward
        handle.remove()
        network.close()
    each = 2 if name == "wan" else 1  # guidance in two calls
    assert inner[0] == 5 * each
    assert calls[0] > inner[0]


def test_prompts_are_encoded_once(tmp_path: Path) -> None:
    pipeline = make_pipeline("stable_diffusion", tmp_path)
    size = {"height": 16, "width": 16, "guidance_scale": 3.0}
    network = PipelineDenoiser(pipeline, STEPS, size, {"prompt": ["a cat", "two dogs"]}, range(4), 4)
    network.force(positional=True)
    encoded = [0]
    pipeline.text_encoder.register_forward_hook(lambda *_: encoded.__setitem__(0, encoded[0] + 1))
    told, x = network.told, network.states(4)
    after_first = encoded[0]
    for k in (3, 2, 1, 0, 4):
        network.at(told.times, told.ratios, k)(x, torch.zeros(4), torch.arange(4))
    network.close()
    assert encoded[0] == after_first
    assert after_first > 0


def test_the_first_step_is_asked_for_any_state(tmp_path: Path) -> None:
    pipeline, options = make_group("wan", tmp_path)
    network = PipelineDenoiser(pipeline, STEPS, options, {}, range(4), 4)
    told, x = network.told, network.states(4).flip(0)
    found = network.at(told.times, told.ratios, 0)(x, torch.zeros(4), torch.arange(4))
    with torch.no_grad():
        time = torch.full((4,), float(np.float32(told.times[0])))
        texts = (options["prompt_embeds"], options["negative_prompt_embeds"])
        cond, uncond = (pipeline.transformer(x, time, text, return_dict=False)[0] for text in texts)
    network.close()
    torch.testing.assert_close(found, uncond + 3.0 * (cond - uncond), rtol=1e-4, atol=1e-5)


class OnePrompt(diffusers.WanPipeline):
    """A pipeline that takes one prompt and no lists, as some do."""

    def __call__(self, prompt: Any = None, generator: Any = None, **options: Any) -> Any:
        if isinstance(prompt, list) or isinstance(generator, list):
            raise ValueError("`prompt` has to be of type `str`")
        width = float(len(prompt))
        told = {name: torch.full((1, 6, 8), width) for name in ("prompt_embeds", "negative_prompt_embeds")}
        return super().__call__(generator=generator, **told, **options)


def test_a_pipeline_that_takes_no_lists_is_called_one_by_one(tmp_path: Path) -> None:
    pipeline, options = make_group("wan", tmp_path)
    alone = OnePrompt(**pipeline.components)
    plain = {name: value for name, value in options.items() if not name.endswith("embeds")}
    few = {"samples": 4, "held_out": 4, "method": "iia", "reference_steps": 8}
    result = calibrate_pipeline(alone, 3, options=plain, per_sample={"prompt": ["a", "two"]}, batch_size=4, **few)
    assert result.end.samples == 4
    told = {name: torch.full((2, 6, 8), 1.0) for name in ("prompt_embeds", "negative_prompt_embeds")}
    for one in told.values():
        one[1] = 3.0
    both = {name: one.repeat(4, 1, 1) for name, one in told.items()}
    expected = calibrate_pipeline(pipeline, 3, options=plain, per_sample=both, batch_size=1, **few)
    assert result.end.base.rmse == expected.end.base.rmse


def test_pictures_of_samples_are_gone_through_in_turn(tmp_path: Path) -> None:
    """The prediction for a sample is that of a call with the picture of that sample."""
    pipeline, options = make_group("pix2pix", tmp_path)
    plain = {name: value for name, value in options.items() if not isinstance(value, torch.Tensor)}
    texts = {name: value[:1] for name, value in options.items() if name.endswith("embeds")}
    network = PipelineDenoiser(pipeline, STEPS, plain, {"image": PICTURES[:3], **texts}, range(4), 2)
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = network(x, torch.full((4,), 500.0), torch.arange(4))
    network.close()
    for n in range(4):
        alone = {**plain, **texts, "image": PICTURES[n % 3][None]}
        one = PipelineDenoiser(pipeline, STEPS, alone, {}, range(4), 1)
        expected = one(x[n : n + 1], torch.full((1,), 500.0), torch.tensor([0]))
        one.close()
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": []}, "at least one entry"),
        ({"image": "a.png"}, "must be a list or a tensor, got str"),
        ({"guidance_scale": [1.0]}, "must not hold guidance_scale"),
        ({"generator": [1]}, "must not hold generator"),
    ],
)
def test_bad_options_per_sample(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    pipeline, options = make_group("wan", tmp_path)
    with pytest.raises(ls.InputError, match=message):
        calibrate_pipeline(pipeline, 3, options=options, per_sample=given)


class Copying(diffusers.WanPipeline):
    """A pipeline that steps copies of its scheduler."""

    how: Any = copy.deepcopy

    def __call__(self, **options: Any) -> Any:
        mine = copy.copy(self)
        mine.scheduler = type(self).how(self.scheduler)
        return super(Copying, mine).__call__(**options)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda one: type(one).from_config(one.config)])
def test_a_pipeline_that_steps_a_copy_of_its_scheduler_is_refused(how: Any, tmp_path: Path, monkeypatch) -> None:
    pipeline, options = make_group("wan", tmp_path)
    monkeypatch.setattr(Copying, "how", how)
    with pytest.raises(ls.InputError, match="copies its scheduler"):
        PipelineDenoiser(Copying(**pipeline.components), STEPS, options, {}, range(4), 4).decide()


def test_the_questions_that_decide_are_counted(tmp_path: Path, monkeypatch) -> None:
    pipeline, options = make_group("wan", tmp_path)
    few = {"samples": 4, "held_out": 4, "batch_size": 4, "method": "iia", "reference_steps": 8}
    whole = calibrate_pipeline(pipeline, 3, options=options, **few)
    network = PipelineDenoiser(pipeline, 3, options, {}, range(8), 4)
    network.decide()
    monkeypatch.setattr(PipelineDenoiser, "decide", lambda self: self.force(positional=True))
    bare = calibrate_pipeline(pipeline, 3, options=options, **few)
    network.close()
    assert whole.calls - bare.calls == network.asked - 4  # both begin with one call for the pipeline's own levels
    assert whole.card.calls == whole.calls
    assert whole.table.distance(bare.table) == 0.0


def test_states_of_several_rows_per_sample() -> None:
    state = torch.arange(12.0).reshape(6, 2)
    frames = Layout.of(state, 3)
    assert (frames.rows, frames.copies) == (2, 1)
    assert torch.equal(frames.pipeline(frames.samples(state, 3)), state)
    twice = Layout.of(torch.cat([state, state]), 6)
    assert (twice.rows, twice.copies) == (1, 2)
    assert torch.equal(twice.pipeline(state), torch.cat([state, state]))
    with pytest.raises(ls.InputError, match="6 states for 4 samples"):
        Layout.of(state, 4)


class Clean(diffusers.WanPipeline):
    """A pipeline that reads the clean predictions of its scheduler, in a tuple or by name."""

    named = False

    def __call__(self, **options: Any) -> Any:
        mine = copy.copy(self)
        step = mine.scheduler.step

        def twice(output: torch.Tensor, t: Any, sample: torch.Tensor, **_: Any) -> Any:
            if type(self).named:
                step(output, t, sample).pred_original_sample.sum()
            return (step(output, t, sample, return_dict=False)[1],)

        mine.scheduler.step = twice  # type: ignore[method-assign]
        return super(Clean, mine).__call__(**options)


@pytest.mark.parametrize("named", [False, True])
def test_a_pipeline_that_reads_clean_predictions_is_refused(named: bool, tmp_path: Path, monkeypatch) -> None:
    pipeline, options = make_group("wan", tmp_path)
    monkeypatch.setattr(Clean, "named", named)
    with pytest.raises(ls.InputError, match="asks its scheduler for clean predictions"):
        PipelineDenoiser(Clean(**pipeline.components), STEPS, options, {}, range(4), 4).decide()


class _WholeTimes(diffusers.StableDiffusionPipeline):
    """It refuses times that are no whole numbers, as self-attention guidance does."""

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        if self.scheduler.timesteps.is_floating_point():
            raise ValueError("times must be whole")
        return super().prepare_latents(*args, **kwargs)


def test_a_pipeline_that_refuses_other_levels_is_refused_in_its_own_words(tmp_path: Path) -> None:
    plain = make_pipeline("stable_diffusion", tmp_path)
    pipeline = _WholeTimes(**plain.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 16}
    with pytest.raises(ls.InputError, match="levels of its own scheduler alone.*ValueError: times must be whole"):
        calibrate_pipeline(pipeline, 3, prompts=["a"], samples=8, held_out=8, options=options, method="iia")
