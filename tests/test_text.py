"""Prompts as conditioning, as in Stable Diffusion."""

from __future__ import annotations

import sys
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from model_folders import edit, normal, refusal
from tiny_models import save_prompt_model, save_tiny_model, save_vae

import longstride as ls
from longstride.zoo.text import DEFAULT_PROMPTS

PROMPTS = ["a cat", "two dogs", "a red house"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_prompt_model(tmp_path / "prompts")
    save_vae(tmp_path / "prompts")
    return tmp_path / "prompts"


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
