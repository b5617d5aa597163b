"""From latents to pictures."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from model_folders import edit, normal, refusal
from tiny_models import save_prompt_model, save_tiny_model, save_vae

import longstride as ls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_prompt_model(tmp_path / "prompts")
    save_vae(tmp_path / "prompts")
    return tmp_path / "prompts"


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
