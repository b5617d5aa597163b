"""Calibrating whole pipelines: what is calibrated is what the pipeline then runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import latents_of, make_pipeline
from typer.testing import CliRunner

import longstride as ls
from longstride.cli import app
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.integrations.pipelines import calibrate_pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SMALL = {"samples": 8, "held_out": 8, "iterations": 1, "scouts": 0, "reference_steps": 12}
SIZE = {"height": 16, "width": 16}
EMBEDDED = {
    "prompt_embeds": torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(3)),
    "pooled_prompt_embeds": torch.randn(8, 8, generator=torch.Generator().manual_seed(4)),
}
CASES: dict[str, tuple[float | None, dict[str, Any]]] = {
    "ddpm": (None, {}),
    "stable_diffusion": (4.0, {**SIZE, "guidance_rescale": 0.3}),
    "xl": (4.0, SIZE),
    "dit": (3.0, {}),
    "sd3": (4.0, SIZE),
    "flux": (3.5, {**SIZE, **EMBEDDED}),
}


def network_of(pipeline: Any, name: str, batch_size: int = 4, **limits: int) -> PipelineDenoiser:
    guidance, options = CASES[name]
    own = {"guidance_scale": guidance} if guidance else {"batch_size": batch_size, "output_type": "np"}
    per_sample = {"prompt": ["a cat", "two dogs", "a"]} if "guidance_rescale" in options or name == "xl" else {}
    return PipelineDenoiser(pipeline, 4, {**options, **own}, per_sample, range(50), batch_size, **limits)


@pytest.mark.parametrize("name", CASES)
def test_the_pipeline_then_draws_what_was_calibrated(name: str, tmp_path) -> None:
    pipeline = make_pipeline(name, tmp_path)
    guidance, options = CASES[name]
    theirs = pipeline.scheduler
    result = calibrate_pipeline(pipeline, 4, guidance_scale=guidance, options=options, **SMALL)
    assert pipeline.scheduler is theirs
    assert result.end.samples == 8
    result.card.save(tmp_path / "card.json")

    scheduler = LongstrideScheduler.from_card(tmp_path / "card.json", strict=True, guidance_scale=guidance)
    pipeline.scheduler = scheduler
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = scheduler.step

    def watched(output: torch.Tensor, t: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = step(output, t, sample, *args, **kwargs)
        seen.append((sample, found[0] if isinstance(found, tuple) else found.prev_sample))
        return found

    scheduler.step = watched
    given = {**{key: value[:2] for key, value in options.items() if isinstance(value, torch.Tensor)}}
    more = {} if guidance is None else {"guidance_scale": guidance}
    plain = {key: value for key, value in options.items() if not isinstance(value, torch.Tensor)}
    latents_of(name, pipeline, 4, **more, **given, **plain)
    assert len(seen) == 4
    table = scheduler.setup.plan.table
    assert result.card.table.nfe == 4
    own = 1 / np.hypot(1, result.card.table.sigmas) if scheduler.process == "vp" else np.ones(5)
    assert result.card.table.rescaled(own).distance(table) < 1e-9
    for (_, after), (before, _) in itertools.pairwise(seen):
        assert torch.equal(after, before)


def test_a_pipeline_as_a_function_is_its_network(tmp_path) -> None:
    pipeline = make_pipeline("ddpm", tmp_path)
    network = network_of(pipeline, "ddpm")
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for time in (999.0, 421.5, 3.0, 700.0):  # in any order, and between the times that were trained
        times = torch.full((4,), time)
        with torch.no_grad():
            expected = pipeline.unet(x, times)[0]
            torch.testing.assert_close(network(x, times, torch.arange(4)), expected)
    network.close()


def test_guidance_and_prompts_are_those_of_the_pipeline(tmp_path) -> None:
    pipeline = make_pipeline("stable_diffusion", tmp_path)
    network = network_of(pipeline, "stable_diffusion")
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([0, 1, 2, 3, 4, 5])
    found = network(x, torch.full((6,), 500.0), index)
    texts = [["a cat", "two dogs", "a"][n % 3] for n in index]
    both, no = pipeline.encode_prompt(texts, "cpu", 1, True)
    with torch.no_grad():
        uncond, cond = pipeline.unet(torch.cat([x, x]), 500.0, torch.cat([no, both]))[0].chunk(2)
    guided = uncond + 4.0 * (cond - uncond)
    dims = list(range(1, 4))
    scaled = guided * cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    torch.testing.assert_close(found, 0.3 * scaled + 0.7 * guided, rtol=1e-4, atol=1e-4)
    network.close()


def test_calls_that_are_not_needed_any_more_end(tmp_path) -> None:
    pipeline = make_pipeline("ddpm", tmp_path)
    network = network_of(pipeline, "ddpm", batch_size=2, most_calls=2)
    x = torch.randn(8, 1, 8, 8)
    first = network(x, torch.full((8,), 300.0), torch.arange(8))
    threads = [call.thread for call in network.calls.live]
    assert len(threads) == 2
    torch.testing.assert_close(network(x, torch.full((8,), 300.0), torch.arange(8)), first)
    network.close()
    assert not any(thread.is_alive() for thread in threads)


def test_memory_that_is_short_halves_the_batch(tmp_path, monkeypatch) -> None:
    pipeline = make_pipeline("ddpm", tmp_path)
    forward = pipeline.unet.forward

    def short(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(x) > 2:
            raise torch.OutOfMemoryError("no room")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(pipeline.unet, "forward", short)
    result = calibrate_pipeline(pipeline, 3, samples=8, held_out=8, method="iia")
    assert result.end.samples == 8
    with pytest.raises(torch.OutOfMemoryError):
        calibrate_pipeline(pipeline, 3, samples=8, held_out=8, batch_size=4, method="iia")


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    """One command calibrates a saved pipeline, another draws with the card, and says where it does not apply."""
    monkeypatch.chdir(tmp_path)
    make_pipeline("stable_diffusion", tmp_path / "parts").save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a cat\n# not this one\n\ntwo dogs\n")
    run = CliRunner().invoke
    few = ["--batch", "8", "--held-out", "8", "--iterations", "1", "--size", "16x16", "--guidance", "4", "--nfe", "3"]
    done = run(app, ["calibrate", "pipeline", "--prompts", "prompts.txt", *few, "--json"])
    assert done.exit_code == 0, done.output
    card = ls.load_card("card.json")
    assert (card.nfe, card.model.guidance, card.model.shape) == (3, 4.0, (4, 8, 8))
    assert card.scheduler["beta_start"] == 0.00085
    drawn = ["--prompt", "a cat", "--guidance", "4", "--size", "16x16", "--num", "2"]
    done = run(app, ["sample", "pipeline", "--card", "card.json", *drawn, "--compare", "--out", "sheet.png"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert "note" not in done.output
    done = run(app, ["sample", "pipeline", "--card", "card.json", "--nfe", "5", *drawn, "--out", "pictures"])
    assert "note: this card is for network calls 3, not 5; dpmpp_2m runs in its place" in done.output
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    for wrong, message in (
        (["calibrate", "pipeline", "--prompts", "none.txt"], "cannot read prompts from none.txt"),
        (["calibrate", "pipeline", "--pipeline", "--nfe", "4-8"], "one number of calls and one guidance scale"),
        (["calibrate", "nowhere", "--pipeline"], "cannot load a pipeline from 'nowhere'"),
        (["sample", "pipeline", "--prompt", "a", "--size", "16"], "expected a size such as 512x512, got '16'"),
        (["sample", "pipeline", "--prompt", "a", "--dtype", "int8"], "unknown dtype 'int8'"),
    ):
        done = run(app, wrong)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


def test_bad_input_and_errors_of_the_pipeline_itself(tmp_path) -> None:
    pipeline = make_pipeline("ddpm", tmp_path)
    with pytest.raises(ls.InputError, match="DDPMPipeline takes no prompts"):
        calibrate_pipeline(pipeline, 4, prompts=["a cat"], **SMALL)
    with pytest.raises(ls.InputError, match="multiples of the batch size 5"):
        calibrate_pipeline(pipeline, 4, batch_size=5, **SMALL)
    with pytest.raises(TypeError, match="colour"):
        calibrate_pipeline(pipeline, 4, options={"colour": "red"}, **SMALL)
    guided = make_pipeline("stable_diffusion", tmp_path / "sd")
    with pytest.raises(ValueError, match="`prompt` has to be of type"):
        calibrate_pipeline(guided, 4, options={"prompt": 3}, **SMALL)


def test_prompts_differ_in_these_pipelines(tmp_path) -> None:
    """Or nothing above would say anything about guidance and prompts."""
    pipeline = make_pipeline("stable_diffusion", tmp_path)
    with torch.no_grad():
        (one, no), (other, _) = (pipeline.encode_prompt(text, "cpu", 1, True) for text in ("a cat", "two dogs"))
    assert float((one - other).abs().max()) > 1e-2
    assert float((one - no).abs().max()) > 1e-2


def test_what_is_not_the_pipeline_itself_is_refused(tmp_path) -> None:
    pipeline = make_pipeline("stable_diffusion", tmp_path)

    def halve(pipe: Any, n: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] / 2}

    def interrupt(pipe: Any, n: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return values

    few = {**SMALL, "prompts": ["a cat", "a"]}
    with pytest.raises(ls.InputError, match="something changes the states between the steps"):
        calibrate_pipeline(pipeline, 3, options={**SIZE, "callback_on_step_end": halve}, **few)
    with pytest.raises(ls.InputError, match="left its loop by itself"):
        calibrate_pipeline(pipeline, 3, options={**SIZE, "callback_on_step_end": interrupt}, **few)
    with pytest.raises(ls.InputError, match="options must not hold latents"):
        calibrate_pipeline(pipeline, 3, options={"latents": torch.zeros(8, 4, 8, 8)}, **few)
    with pytest.raises(ls.InputError, match="left its loop by itself"):
        calibrate_pipeline(make_pipeline("xl", tmp_path / "x"), 3, options={**SIZE, "denoising_end": 0.6}, **few)
    picture = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with pytest.raises(ls.InputError, match="leaves out some of its times"):
        calibrate_pipeline(make_pipeline("img2img", tmp_path / "i"), 3, options={"image": picture}, **few)
    mask = torch.zeros(8, 1, 16, 16)
    mask[..., :8] = 1
    masked = {**SIZE, "image": picture, "mask_image": mask, "strength": 1.0}
    with pytest.raises(ls.InputError, match="something changes the states between the steps"):
        calibrate_pipeline(make_pipeline("inpaint", tmp_path / "m"), 3, options=masked, **few)


@pytest.mark.parametrize("how", ["wrapped", "in place", "offloaded", "offloaded by leaves"])
def test_a_network_that_is_compiled_or_offloaded_is_calibrated_as_itself(tmp_path, how: str) -> None:
    few = {"samples": 4, "held_out": 4, "method": "iia", "reference_steps": 6, "batch_size": 4}
    plain, other = make_pipeline("ddpm", tmp_path), make_pipeline("ddpm", tmp_path)
    if how == "wrapped":
        other.unet = torch.compile(other.unet, backend="eager")
    elif how == "in place":
        other.unet.compile(backend="eager")
    elif how == "offloaded":
        other.enable_model_cpu_offload(device="cpu")
    else:
        cpu = torch.device("cpu")
        other.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    before = {"forward", "_compiled_call_impl"} & set(other.unet.__dict__)
    wanted, found = (calibrate_pipeline(pipeline, 3, **few) for pipeline in (plain, other))
    assert found.table.distance(wanted.table) < 1e-6
    assert found.card.model.networks == wanted.card.model.networks
    assert {"forward", "_compiled_call_impl"} & set(other.unet.__dict__) == before


@pytest.mark.parametrize("method", ["iia", "gauss_newton"])
def test_a_network_that_returns_nan_is_named_and_nothing_else(tmp_path, method: str) -> None:
    pipeline = make_pipeline("sd3", tmp_path)
    with torch.no_grad():
        pipeline.transformer.proj_out.bias[0] = float("nan")
    few = {"samples": 4, "held_out": 4, "reference_steps": 8, "method": method, "prompts": ["a cat", "a"]}
    with pytest.raises(ls.NonFiniteError, match="NaN or infinity"):
        calibrate_pipeline(pipeline, 3, options=SIZE, batch_size=4, **few)


@pytest.mark.parametrize("positional", [True, False])
def test_a_state_that_is_not_finite_is_not_taken_for_a_changed_state(tmp_path, positional: bool) -> None:
    network = network_of(make_pipeline("xl", tmp_path), "xl")
    network.force(positional=positional)
    told, states = network.told, network.states(4)
    states[1, 0, 0, 0] = float("nan")
    ask = network.at(told.times, told.ratios, 2) if positional else network
    with pytest.raises(ls.NonFiniteError, match="states of this pipeline are not finite at step"):
        ask(states, torch.full((4,), float(told.times[2])), torch.arange(4))
    network.close()


def test_a_picture_with_nan_makes_no_first_state(tmp_path) -> None:
    picture = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    picture[0, 0, 0, 0] = float("nan")
    few = {**SMALL, "prompts": ["a cat", "a"], "options": {"image": picture, "strength": 1.0}}
    with pytest.raises(ls.NonFiniteError, match="not finite at step 1 "):
        calibrate_pipeline(make_pipeline("img2img", tmp_path), 3, **few)


def test_another_prompt_is_another_journal(tmp_path) -> None:
    pipeline = make_pipeline("stable_diffusion", tmp_path / "p")
    few = {**SMALL, "options": SIZE, "method": "iia", "guidance_scale": 5.0}
    del few["scouts"], few["iterations"]
    fresh = calibrate_pipeline(pipeline, 3, prompts=["a", "b"], **few)
    kept = calibrate_pipeline(pipeline, 3, prompts=["a", "two dogs"], journal=tmp_path / "kept", **few)
    again = calibrate_pipeline(pipeline, 3, prompts=["a", "b"], journal=tmp_path / "kept", **few)
    assert again.end.base.rmse == fresh.end.base.rmse != kept.end.base.rmse
    resumed = calibrate_pipeline(pipeline, 3, prompts=["a", "b"], journal=tmp_path / "kept", **few)
    assert resumed.table.distance(fresh.table) == 0.0


def test_parts_of_batches_are_calls_of_their_own(tmp_path) -> None:
    pipeline = make_pipeline("ddpm", tmp_path)
    result = calibrate_pipeline(pipeline, 3, samples=16, held_out=16, batch_size=16, method="iia", reference_steps=8)
    assert result.end.samples == 16


@pytest.mark.parametrize("positional", [False, True])
def test_one_number_for_several_states_is_a_sample_for_each(tmp_path, positional: bool) -> None:
    """Runs of one sample make their call together: each state has a prediction of its own."""
    network = network_of(make_pipeline("stable_diffusion", tmp_path), "stable_diffusion", batch_size=3)
    network.force(positional=positional)
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = network(x, torch.full((4,), 300.0), torch.tensor([8]))
    expected = torch.cat([network(one[None], torch.full((1,), 300.0), torch.tensor([8])) for one in x])
    network.close()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
