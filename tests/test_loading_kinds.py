"""Loading transformers, flows and prompt networks; what is refused; the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from model_folders import edit, normal, refusal
from tiny_models import save_dit_model, save_prompt_model, save_tiny_model, save_vae, write_index

import longstride as ls
from longstride.zoo import loading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_prompt_model(tmp_path / "prompts")
    save_vae(tmp_path / "prompts")
    return tmp_path / "prompts"


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
