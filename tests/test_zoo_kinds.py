"""Models of every kind but plain ones: prompts, transformers, latents, flows; and the kinds that are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tiny_models import save_dit_model, save_prompt_model, save_tiny_model, save_vae, write_index

import longstride as ls
from longstride.zoo import loading
from longstride.zoo.text import DEFAULT_PROMPTS

PROMPTS = ["a cat", "two dogs", "a red house"]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(ls.InputError) as caught:
        ls.load_model(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_prompt_model(tmp_path / "prompts")
    save_vae(tmp_path / "prompts")
    return tmp_path / "prompts"


# Prompts


def embed(folder: Path, texts: list[str]) -> torch.Tensor:
    """As diffusers' Stable Diffusion pipeline does."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    encoder = transformers.CLIPTextModel.from_pretrained(str(folder / "text_encoder"))
    ids = tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt").input_ids
    return encoder(ids)[0]


@torch.no_grad()
def test_seeds_go_through_the_prompts(folder: Path):
    model = ls.load_model(folder, prompts=PROMPTS)
    seeds, t = range(4, 8), 500
    assert (model.shape, model.num_classes, model.prompts) == ((4, 8, 8), 0, tuple(PROMPTS))
    assert model.labels(seeds).tolist() == [1, 2, 0, 1]
    alpha, sigma = float(model.schedule.alpha(t)), float(model.schedule.sigma(t))
    x = model.noise(seeds, sigma / alpha)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    told = embed(folder, [PROMPTS[n] for n in (1, 2, 0, 1)])
    expected = x - sigma / alpha * unet(x * alpha, t, encoder_hidden_states=told).sample
    torch.testing.assert_close(model.denoiser(seeds)(x, sigma / alpha), expected, rtol=1e-4, atol=1e-4)
    chosen = model.denoiser(seeds, labels=torch.tensor([1, 2, 0, 1]))(x, sigma / alpha)
    assert torch.equal(chosen, model.denoiser(seeds)(x, sigma / alpha))


@torch.no_grad()
@pytest.mark.parametrize("negative", ["", "blurred"])
def test_guidance_away_from_the_empty_or_negative_prompt(folder: Path, negative: str):
    model = ls.load_model(folder, prompts=PROMPTS, negative=negative)
    x, seeds = normal(3, 4, 8, 8), range(3)
    guided = model.denoiser(seeds, guidance=7.5)(x, 1.0)
    conditional = model.denoiser(seeds)(x, 1.0)
    unconditional = model.with_prompts([negative]).denoiser(seeds)(x, 1.0)
    torch.testing.assert_close(guided, unconditional + 7.5 * (conditional - unconditional), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided, conditional)
    part = model.denoiser(seeds, guidance=7.5).select(slice(1, 3))
    torch.testing.assert_close(part(x[1:], 1.0), guided[1:], rtol=1e-4, atol=1e-4)


def test_default_prompts(folder: Path):
    model = ls.load_model(folder)
    assert model.prompts == DEFAULT_PROMPTS
    assert len(set(DEFAULT_PROMPTS)) == 16
    assert model.denoiser(range(20))(normal(20, 4, 8, 8), 1.0).shape == (20, 4, 8, 8)


def test_other_prompts_are_the_same_model(folder: Path):
    model = ls.load_model(folder)
    assert model.with_prompts(PROMPTS, negative="bad").fingerprint == model.fingerprint


@pytest.mark.filterwarnings("ignore:.*on CPU.*")
def test_half_precision(folder: Path):
    model = ls.load_model(folder, dtype=torch.bfloat16)
    x = model.noise(range(2), 1.0)
    assert model.denoiser(range(2), guidance=2.0)(x, 1.0).dtype == torch.float32
    assert model.pictures(x).dtype == torch.float32


def test_wrong_prompts(folder: Path, tmp_path: Path):
    assert "prompts must be a list of texts" in refusal(folder, prompts="a cat")
    assert "a list of at least one text, got []" in refusal(folder, prompts=[])
    model = ls.load_model(folder, prompts=["a " * 70])
    with pytest.raises(ls.InputError, match=r"the prompt 'a a .*has 72 tokens, the encoder reads 64"):
        model.denoiser(range(1))
    with pytest.raises(ls.InputError, match="has prompts 0 … 0, got label 1"):
        model.denoiser(range(1), labels=torch.tensor([1]))
    plain = save_tiny_model(tmp_path / "plain", classes=None)
    assert "takes no prompts: it has no classes" in refusal(plain, prompts=PROMPTS)


def test_without_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "needs transformers: pip install 'longstride[text]'" in refusal(folder)


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_missing_parts_of_the_text_side(folder: Path, part: str):
    edit(folder / "model_index.json", **{part: [None, None]})
    assert f"names no {part} of transformers for the unet" in refusal(folder)


def test_a_text_encoder_of_another_width(folder: Path):
    save_prompt_model(folder / "wide", cross_attention_dim=12)
    assert "the text_encoder of" in refusal(folder / "wide")
    assert "makes 8 channels, the unet reads 12" in refusal(folder / "wide")


# Latents


@torch.no_grad()
def test_pictures_of_latents(folder: Path):
    model, x = ls.load_model(folder), normal(5, 4, 8, 8)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    model.check_pictures()
    expected = vae.decode(x / 0.5 + 0.25).sample
    assert expected.shape == (5, 3, 8, 8)
    torch.testing.assert_close(model.pictures(x, batch_size=2), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pictures_of_quantised_latents(tmp_path: Path):
    """The unconditional latent models of the first days: a plain U-Net with a ``vqvae``."""
    save_tiny_model(tmp_path, classes=None)
    vae = save_vae(tmp_path, latent_channels=1, kind=diffusers.VQModel, part="vqvae")
    x = normal(2, 1, 8, 8)
    torch.testing.assert_close(ls.load_model(tmp_path).pictures(x), vae.decode(x / 0.5).sample, rtol=1e-4, atol=1e-5)


def test_pictures_of_pixels_are_the_samples(tmp_path: Path):
    x = normal(2, 1, 8, 8)
    assert ls.load_model(save_tiny_model(tmp_path)).pictures(x) is x


def test_latents_without_a_decoder(folder: Path):
    edit(folder / "model_index.json", vae=None)
    with pytest.raises(ls.InputError, match=r"makes samples of shape \(4, 8, 8\): only 1 or 3 channels can be drawn"):
        ls.load_model(folder).pictures(normal(1, 4, 8, 8))


def test_a_decoder_of_other_latents(folder: Path):
    save_vae(folder, latent_channels=8)
    assert "the unet of" in refusal(folder)
    assert "makes 4 channels, its vae decodes 8" in refusal(folder)


def test_a_decoder_with_normalised_latents(folder: Path):
    edit(folder / "vae" / "config.json", latents_mean=[0.0] * 4)
    assert "normalises latents per channel" in refusal(folder)


# Transformers and flows


@torch.no_grad()
@pytest.mark.parametrize("older", [False, True])
def test_a_class_conditional_transformer(tmp_path: Path, older: bool):
    """DiT: its variance is cut, and its null class is the last embedding. Older folders name another class."""
    network = save_dit_model(tmp_path)
    if older:
        write_index(tmp_path, {"transformer": ["diffusers", "Transformer2DModel"]})
        edit(tmp_path / "transformer" / "config.json", _class_name="Transformer2DModel")
    save_vae(tmp_path)
    model, x, t = ls.load_model(tmp_path), normal(3, 4, 8, 8), 300
    assert (model.shape, model.num_classes, model.null_class) == ((4, 8, 8), 5, 5)
    assert model.class_names == ("a", "b", "c", "j", "k")
    alpha, sigma = float(model.schedule.alpha(t)), float(model.schedule.sigma(t))
    out = {
        label: network(x * alpha, torch.full((3,), t), class_labels=label).sample[:, :4]
        for label in (torch.tensor([0, 1, 2]), torch.tensor([5, 5, 5]))
    }
    c, u = out.values()
    guided = model.denoiser(range(3), guidance=4.0)(x, sigma / alpha)
    torch.testing.assert_close(guided, x - sigma / alpha * (u + 4.0 * (c - u)), rtol=1e-4, atol=1e-4)
    assert model.pictures(x).shape == (3, 3, 8, 8)


@torch.no_grad()
def test_a_flow(tmp_path: Path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    model = ls.load_model(save_tiny_model(tmp_path, scheduler=scheduler, classes=None))
    assert (model.prediction, model.schedule.family) == ("flow", "flow")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet")
    x, sigma = normal(2, 1, 8, 8), 0.75
    expected = x - sigma * unet(x, 750.0).sample
    torch.testing.assert_close(model.denoiser(range(2))(x, sigma), expected, rtol=1e-4, atol=1e-4)


# What is refused


@pytest.mark.parametrize(
    ("setting", "needs"),
    [
        ({"addition_embed_type": "text_time"}, "needs added_cond_kwargs (as Stable Diffusion XL"),
        ({"num_class_embeds": 5}, "needs class_labels (such as a noise level)"),
        ({"time_cond_proj_dim": 8}, "needs timestep_cond (the guidance scale"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_prompt_networks_with_further_inputs(folder: Path, setting: dict[str, Any], needs: str):
    edit(folder / "unet" / "config.json", **setting)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # refused before weights are looked at
    message = refusal(folder)
    assert needs in message
    assert "longstride.as_denoiser" in message


def test_a_network_with_a_mask(tmp_path: Path):
    save_prompt_model(tmp_path / "inpaint", in_channels=9)
    assert "takes 9 channels and returns 4: it needs more than the state, such as a mask" in refusal(
        tmp_path / "inpaint"
    )


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        ("SD3Transformer2DModel", "needs encoder_hidden_states, pooled_projections besides"),
        (
            "FluxTransformer2DModel",
            "needs encoder_hidden_states, pooled_projections, img_ids, txt_ids, guidance besides",
        ),
        ("PixArtTransformer2DModel", "needs encoder_hidden_states, added_cond_kwargs besides"),
        ("Transformer2DModel", "needs encoder_hidden_states besides"),
    ],
)
def test_other_transformers(tmp_path: Path, kind: str, needs: str):
    save_dit_model(tmp_path)
    write_index(tmp_path, {"transformer": ["diffusers", kind]})
    edit(tmp_path / "transformer" / "config.json", norm_type="layer_norm")
    assert needs in refusal(tmp_path)


def test_a_network_that_is_no_network(tmp_path: Path):
    save_dit_model(tmp_path)
    write_index(tmp_path, {"transformer": ["diffusers", "DDPMScheduler"]})
    assert "needs other inputs than network(x, timestep) besides" in refusal(tmp_path)


# The hub


def test_a_hub_id_is_checked_before_its_weights_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    asked: list[list[str]] = []

    def fetch(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert name == "someone/model"
        assert "*.fp16.*" in ignore_patterns
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert ls.load_model("someone/model").shape == (4, 8, 8)
    assert [any("safetensors" in pattern for pattern in patterns) for patterns in asked] == [False, True]
    edit(folder / "unet" / "config.json", addition_embed_type="text_time")
    asked.clear()
    assert "as Stable Diffusion XL" in refusal("someone/model")
    assert len(asked) == 1


def test_what_is_fetched_from_the_hub():
    """Parts and the root layout of the first models; no checkpoints for other programs, which can lie beside them."""
    from fnmatch import fnmatch

    def fetched(file: str) -> bool:
        return any(fnmatch(file, pattern) for pattern in loading._CONTENTS)

    wanted = ["model_index.json", "scheduler_config.json", "unet/config.json", "tokenizer/merges.txt"]
    wanted += ["diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    assert all(map(fetched, [*wanted, "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"]))
    unwanted = ["v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors"]
    assert not any(map(fetched, unwanted))


def test_no_connection(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def fail(*args: object, **options: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert "cannot get 'someone/model' from the hub (ConnectionError: no route)" in refusal("someone/model")
