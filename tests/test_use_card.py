"""A card in a pipeline: what it was made for is compared with what is about to be done, and what differs is said."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_models import seeded
from tiny_pipelines import _vae, make_pipeline

import longstride as ls
from longstride.book import CardBook
from longstride.book_parts import Entry
from longstride.documents import checksum
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.pipelines import calibrate_pipeline, use_card

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIZE = {"height": 16, "width": 16}
FEW: dict[str, Any] = {"samples": 8, "held_out": 8, "method": "iia", "reference_steps": 8}


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture
def pipe(maker: Path) -> Any:
    return make_pipeline("stable_diffusion", maker)


@pytest.fixture(scope="module")
def card(maker: Path) -> ls.Card:
    """Of the pipeline's own guidance, which nobody says."""
    pipeline = make_pipeline("stable_diffusion", maker)
    return calibrate_pipeline(pipeline, 4, prompts=["a boat", "a"], options=SIZE, **FEW).card


def drawn(pipeline: Any, **call: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return pipeline("a cat", generator=generator, output_type="latent", **call).images


def refusal(pipeline: Any, card: Any, **call: Any) -> str:
    before = pipeline.scheduler
    with pytest.raises(ls.CardError) as caught:
        use_card(pipeline, card, **call)
    assert pipeline.scheduler is before, "a pipeline that is refused is not touched"
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is recorded


def test_what_was_in_force_is_on_the_card(card: ls.Card, tmp_path: Path) -> None:
    assert card.model.guidance == 7.5
    assert list(card.model.networks) == ["unet"]
    assert card.model.networks["unet"] == card.model.fingerprint
    call = card.call
    assert call is not None
    assert call.settings == {"guidance_scale": 7.5, "guidance_rescale": 0.0, **SIZE}
    assert (call.pipeline, call.conditions) == ("StableDiffusionPipeline", ())
    assert call.levels is not None
    assert (call.levels.steps, call.levels.sigmas) == (4, None)
    assert call.seen == pytest.approx((-6.5, 7.5), abs=1e-4)
    card.save(tmp_path / "card.json")
    assert ls.load_card(tmp_path / "card.json").call == call
    other = call.model_copy(update={"settings": {**call.settings, "guidance_rescale": 0.1}})
    assert other.digest != call.digest == call.model_copy(update={"seen": None}).digest


def test_the_scheduler_takes_the_default_guidance_and_no_other(pipe: Any, card: ls.Card) -> None:
    for scale, fits in ((7.5, True), (1.0, False), (4.0, False)):
        scheduler = LongstrideScheduler.from_card(card, strict=True, guidance_scale=scale)
        if fits:
            scheduler.set_timesteps(4)
            assert scheduler.setup.calibrated
        else:
            with pytest.raises(ls.CardError, match=rf"guidance 7.5, not {scale}"):
                scheduler.set_timesteps(4)


# What is given back


def test_the_call_is_completed(pipe: Any, card: ls.Card) -> None:
    assert use_card(pipe, card) == {"num_inference_steps": 4, **SIZE}
    assert use_card(pipe, card, guidance_scale=7.5, height=16) == {
        "num_inference_steps": 4, "guidance_scale": 7.5, **SIZE
    }  # fmt: skip
    made = drawn(pipe, **use_card(pipe, card))
    pipe.scheduler = LongstrideScheduler.from_card(card, strict=True)
    assert torch.equal(made, drawn(pipe, num_inference_steps=4, **SIZE))


def test_a_setting_of_the_calibration_that_is_no_default_is_completed(pipe: Any) -> None:
    options = {**SIZE, "guidance_rescale": 0.3}
    made = calibrate_pipeline(pipe, 4, prompts=["a"], guidance_scale=4.0, options=options, **FEW).card
    assert made.call is not None
    assert made.call.seen is None, "two numbers do not explain it"
    assert use_card(pipe, made) == {"num_inference_steps": 4, "guidance_scale": 4.0, **options}
    assert "guidance_rescale is 0.0, the card's 0.3" in refusal(pipe, made, guidance_rescale=0.0)
    drawn(pipe, **use_card(pipe, made))


# What differs


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"guidance_scale": 1.0}, "guidance_scale is 1.0, the card's 7.5"),
        ({"guidance_rescale": 0.5}, "guidance_rescale is 0.5, the card's 0.0"),
        ({"height": 32}, "height is 32, the card's 16"),
        ({"negative_prompt": "red"}, "the calibration had no negative_prompt, this call has one"),
        ({"num_inference_steps": 5}, "for 4 network calls, not 5: set num_inference_steps=4"),
        ({"clip_skip": 1}, "clip_skip is 1, the card's None"),
        ({"sigmas": [9.0, 3.0, 1.0, 0.3]}, "sigmas of the call are not the card's"),
        ({"timesteps": [900, 600, 300, 0]}, "timesteps of the call are not the card's"),
    ],
)
def test_a_call_of_another_kind_is_refused(pipe: Any, card: ls.Card, call: dict[str, Any], said: str) -> None:
    assert said in refusal(pipe, card, **call)


@pytest.mark.parametrize(
    ("name", "value"), [("denoising_end", 0.5), ("denoising_start", 0.5), ("strength", 0.6), ("strength", 1.2)]
)
def test_a_run_that_is_no_whole_run_is_refused(pipe: Any, card: ls.Card, name: str, value: float) -> None:
    assert f"{name}={value} does not make a whole run" in refusal(pipe, card, **{name: value})


def test_all_that_differs_is_said_at_once(pipe: Any, card: ls.Card) -> None:
    with torch.no_grad():
        pipe.unet.conv_in.weight.add_(0.1)
    other = {**pipe.scheduler.config, "beta_end": 0.02}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(other)
    message = refusal(pipe, card, guidance_scale=3.0, denoising_end=0.4)
    for said in (
        "unet has other weights",
        "guidance_scale is 3.0",
        "denoising_end=0.4",
        "beta_end 0.012, the pipeline",
    ):
        assert said in message
    with pytest.warns(UserWarning, match="unet has other weights.*guidance_scale is 3.0"):
        use_card(pipe, card, strict=False, guidance_scale=3.0)
    assert pipe.scheduler.card is card


def test_settings_in_place_of_the_pipelines_are_those_of_the_calibration(pipe: Any) -> None:
    other = {"beta_end": 0.02}
    made = calibrate_pipeline(pipe, 4, prompts=["a"], options=SIZE, scheduler=other, **FEW).card
    assert "beta_end 0.02, the pipeline has 0.012" in refusal(pipe, made)
    use_card(pipe, made, scheduler=other)
    assert pipe.scheduler.config.beta_end == 0.02


def test_another_guidance_than_was_said_is_seen(pipe: Any, card: ls.Card) -> None:
    call = use_card(pipe, card)
    with pytest.raises(ls.CardError, match=r"guidance 3\).*the card was made with.*guidance 7.5\)"):
        drawn(pipe, **call, guidance_scale=3.0)
    with pytest.raises(ls.CardError, match="the weights 1, the card was made with"):
        drawn(pipe, **call, guidance_scale=1.0)
    drawn(pipe, **call)

    call = use_card(pipe, card, strict=False)
    with pytest.warns(UserWarning, match="dpmpp_2m runs in its place"):
        found = drawn(pipe, **call, guidance_scale=3.0)
    plain = LongstrideScheduler.from_card(card)
    pipe.scheduler = plain
    plain.set_timesteps(4)
    levels = plain.sigmas.tolist()
    pipe.scheduler = LongstrideScheduler.from_config(plain.config, solver="dpmpp_2m", levels="EulerDiscreteScheduler")
    expected = drawn(pipe, **SIZE, guidance_scale=3.0, sigmas=levels)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-3


def test_embedded_guidance_is_seen(maker: Path) -> None:
    pipeline = make_pipeline("flux", maker)
    texts = {
        "prompt_embeds": torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(3)),
        "pooled_prompt_embeds": torch.randn(8, 8, generator=torch.Generator().manual_seed(4)),
    }
    made = calibrate_pipeline(pipeline, 3, options={**SIZE, **texts}, **FEW).card
    assert made.call is not None
    assert (made.model.guidance, made.call.told, made.call.seen) == (3.5, 3.5, pytest.approx((1.0,)))
    call = {**use_card(pipeline, made, **texts), "output_type": "latent"}
    pipeline(**call)
    with pytest.raises(ls.CardError, match=r"told guidance 5, the card was made with 3.5"):
        pipeline(**call, guidance_scale=5.0)


def test_a_pipeline_with_another_network_or_none_is_refused(pipe: Any, card: ls.Card) -> None:
    more = card.model.model_copy(update={"networks": {**card.model.networks, "controlnet": "0" * 64}})
    assert "only the calibration has a controlnet" in refusal(pipe, card.model_copy(update={"model": more}))
    none = card.model.model_copy(update={"networks": {"transformer": "0" * 64}})
    message = refusal(pipe, card.model_copy(update={"model": none}))
    assert "only this pipeline has a unet" in message
    unread = card.model.model_copy(update={"networks": {"unet": None}, "fingerprint": None})
    use_card(pipe, card.model_copy(update={"model": unread}))


def test_the_same_network_compiled_or_offloaded_is_the_same(pipe: Any, card: ls.Card) -> None:
    from accelerate import cpu_offload

    plain = drawn(pipe, **use_card(pipe, card))
    network = pipe.unet
    pipe.unet = torch.compile(network, backend="eager")
    use_card(pipe, card)
    pipe.unet = cpu_offload(copy.deepcopy(network), execution_device="cpu")
    assert torch.equal(drawn(pipe, **use_card(pipe, card)), plain)


def test_a_saved_scheduler_is_strict_and_watches_no_more(pipe: Any, card: ls.Card, tmp_path: Path) -> None:
    use_card(pipe, card)
    pipe.scheduler.save_pretrained(tmp_path)
    again = LongstrideScheduler.from_pretrained(tmp_path)
    assert again.card.dumps() == card.dumps()
    assert again.config.strict
    copied = copy.deepcopy(pipe.scheduler)
    copied.set_timesteps(4)
    assert copied.setup.calibrated


@pytest.mark.slow
def test_a_saved_pipeline_loads_in_a_new_process_after_one_line(pipe: Any, card: ls.Card, tmp_path: Path) -> None:
    """diffusers imports no module that a folder names, so the process must import it; the documentation says so."""
    use_card(pipe, card)
    pipe.save_pretrained(tmp_path / "saved")
    lines = (
        "import longstride.integrations.diffusers",
        "from diffusers import DiffusionPipeline",
        "print(DiffusionPipeline.from_pretrained('saved').scheduler.card.nfe)",
    )
    made = subprocess.run([sys.executable, "-c", "; ".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert made.stdout.strip() == "4", made.stderr[-500:]
    for page in ("README.md", "docs/diffusers.md"):
        assert lines[0] in (Path(__file__).parent.parent / page).read_text(), page


# Cards before version 4


def old(card: ls.Card, path: Path, **model: Any) -> ls.Card:
    """The card as version 3 wrote it."""
    raw = json.loads(card.dumps())
    del raw["checksum"], raw["call"], raw["model"]["networks"], raw["model"]["adapters"]
    raw["version"] = 3
    raw["model"] |= model
    path.write_text(json.dumps({**raw, "checksum": checksum(raw)}))
    return ls.load_card(path)


def test_an_old_card_without_guidance_was_made_at_the_default(pipe: Any, card: ls.Card, tmp_path: Path) -> None:
    before = old(card, tmp_path / "old.json", guidance=None)
    assert before.unsaid_guidance
    assert not card.unsaid_guidance
    for scale in (1.0, 7.5):
        scheduler = LongstrideScheduler.from_card(before, strict=True, guidance_scale=scale)
        with pytest.raises(ls.CardError, match="does not say its guidance"):
            scheduler.set_timesteps(4)
    LongstrideScheduler.from_card(before, strict=True).set_timesteps(4)
    assert use_card(pipe, before, **SIZE) == {"num_inference_steps": 4, **SIZE}
    assert "guidance_scale is 1, the card's 7.5" in refusal(pipe, before, guidance_scale=1.0)


def test_an_old_card_with_guidance_says_it(pipe: Any, card: ls.Card, tmp_path: Path) -> None:
    before = old(card, tmp_path / "old.json", guidance=4.0)
    assert use_card(pipe, before) == {"num_inference_steps": 4, "guidance_scale": 4.0}
    assert "guidance_scale is 7.5, the card's 4" in refusal(pipe, before, guidance_scale=7.5)
    with torch.no_grad():
        pipe.unet.conv_in.weight.add_(0.1)
    assert "unet has other weights" in refusal(pipe, before)


# Levels of their own


def cogview4() -> Any:
    """A pipeline that gives its scheduler times and levels of its own, and a shift by the resolution."""
    network = seeded(
        diffusers.CogView4Transformer2DModel,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        text_embed_dim=8,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
    )
    pipeline = diffusers.CogView4Pipeline(
        tokenizer=None, text_encoder=None, vae=_vae(), transformer=network, scheduler=scheduler
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_levels_of_the_pipelines_own_are_accepted_again() -> None:
    pipeline = cogview4()
    embeds = torch.randn(8, 16, 8, generator=torch.Generator().manual_seed(1))
    own = {**SIZE, "prompt_embeds": embeds}
    made = calibrate_pipeline(pipeline, 4, guidance_scale=1.0, options=own, **FEW).card
    levels = made.call.levels if made.call else None
    assert levels is not None
    assert levels.steps is None
    assert len(levels.sigmas or levels.timesteps or ()) == 4
    mine = LongstrideScheduler.from_card(made, strict=True, guidance_scale=1.0)
    pipeline.scheduler = mine
    pipeline(num_inference_steps=4, guidance_scale=1.0, output_type="latent", **own)
    assert mine.setup.calibrated
    for shift, said in ((levels.mu, ""), (levels.mu + 0.1, "calibrated at the shift mu = ")):
        ask = {"timesteps": levels.timesteps, "sigmas": levels.sigmas, "mu": shift}
        if said:
            with pytest.raises(ls.CardError, match=said):
                mine.set_timesteps(**ask)
        else:
            mine.set_timesteps(**ask)
    other = [1.0, 0.9, 0.5, 0.25]
    with pytest.raises(ls.CardError, match="levels of its own, this card has others"):
        mine.set_timesteps(sigmas=other, timesteps=[1000 * s for s in other], mu=levels.mu)
    given = use_card(pipeline, made, prompt_embeds=embeds)
    assert given.pop("prompt_embeds") is embeds
    assert given == {"num_inference_steps": 4, "guidance_scale": 1.0, **SIZE}


# A run that is cut short


def test_a_run_that_the_pipeline_cuts_short_is_known_before_its_first_step(maker: Path) -> None:
    pipeline = make_pipeline("xl", maker)
    made = calibrate_pipeline(pipeline, 6, prompts=["a"], guidance_scale=4.0, options=SIZE, **FEW).card
    ask = {"num_inference_steps": 6, "guidance_scale": 4.0, **SIZE}
    mine = LongstrideScheduler.from_card(made, strict=True, guidance_scale=4.0)
    pipeline.scheduler = mine
    whole = drawn(pipeline, **ask)
    with pytest.raises(ls.CardError, match="whole runs of 6 calls, the pipeline stops after 3"):
        drawn(pipeline, denoising_end=0.5, **ask)
    assert mine.step_index is None
    assert torch.equal(drawn(pipeline, **ask), whole), "a whole run is the same as before"

    levels = mine.sigmas.tolist()[:4]
    pipeline.scheduler = LongstrideScheduler.from_card(made, guidance_scale=4.0)
    with pytest.warns(UserWarning, match="stops after 3; dpmpp_2m runs in its place"):
        cut = drawn(pipeline, denoising_end=0.5, **ask)
    kept: list[torch.Tensor] = []

    def keep(_: Any, i: int, t: Any, told: dict[str, Any]) -> dict[str, Any]:
        kept.append(told["latents"].clone())
        return told

    pipeline.scheduler = LongstrideScheduler.from_config(made.scheduler, solver="dpmpp_2m")
    del ask["num_inference_steps"]
    drawn(pipeline, sigmas=[*levels, levels[-1] / 2], callback_on_step_end=keep, **ask)
    torch.testing.assert_close(cut, kept[2], rtol=1e-4, atol=1e-4)
    pipeline.scheduler = mine
    assert "denoising_end=0.5 does not make a whole run" in refusal(pipeline, made, denoising_end=0.5)


def test_a_classical_scheduler_has_plain_times(pipe: Any) -> None:
    scheduler = LongstrideScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(4)
    assert type(scheduler.timesteps) is torch.Tensor


# Books


def test_a_book_is_used_as_its_card(pipe: Any, card: ls.Card, tmp_path: Path) -> None:
    how = "calibrated" if card.end.accepted else "base"
    book = CardBook.of([Entry(how=how, card=card)], None)
    with pytest.raises(ls.InputError, match="say which with num_inference_steps="):
        use_card(pipe, book)
    given = use_card(pipe, book, num_inference_steps=4)
    assert given == {"num_inference_steps": 4, **SIZE}
    one = drawn(pipe, **given)
    assert torch.equal(one, drawn(pipe, **use_card(pipe, card)))
    assert "at guidance 3: not in this book" in refusal(pipe, book, num_inference_steps=4, guidance_scale=3.0)


def test_nothing_is_said_of_what_fits(pipe: Any, card: ls.Card) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        call = use_card(pipe, card, strict=False)
        drawn(pipe, **call)


def test_a_setting_that_the_class_of_the_pipeline_does_not_read_is_no_difference(tmp_path: Path) -> None:
    """CogVideoX's class has clip_sample=True by default, and clamps nothing."""
    pipeline = make_pipeline("stable_diffusion", tmp_path)
    pipeline.scheduler = diffusers.CogVideoXDDIMScheduler()
    assert pipeline.scheduler.config.clip_sample
    size = {"height": 16, "width": 16}
    few = {"samples": 8, "held_out": 8, "method": "iia"}
    card = calibrate_pipeline(pipeline, 3, prompts=["a"], options=size, **few).card
    assert pipeline("a", **use_card(pipeline, card, **size, output_type="latent")).images.shape == (1, 4, 8, 8)
