"""Untrained networks of a few thousand parameters, in diffusers' folder layout, for tests that need a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)

__all__ = ["save_dit_model", "save_prompt_model", "save_tiny_model", "save_vae", "tiny_unet", "write_index"]


def tiny_unet(*, classes: int | None = 3, learned_variance: bool = False, seed: int = 0) -> UNet2DModel:
    """A U-Net for pictures ``(1, 8, 8)``; its weights depend on ``seed`` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=2 if learned_variance else 1,
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            norm_num_groups=4,
            add_attention=False,
            num_class_embeds=classes,
        ).eval()


def write_index(folder: Path, entries: dict[str, Any]) -> None:
    """Write or extend ``model_index.json``; objects stand for their library and class."""
    file = folder / "model_index.json"
    index = json.loads(file.read_text()) if file.exists() else {"_class_name": "DDPMPipeline"}
    for name, entry in entries.items():
        plain = entry is None or isinstance(entry, (int, str, list, dict))
        index[name] = entry if plain else [type(entry).__module__.partition(".")[0], type(entry).__name__]
    file.write_text(json.dumps(index))


def save_tiny_model(
    folder: Path,
    *,
    prediction: str = "v_prediction",
    null_class: int | None = None,
    root: bool = False,
    scheduler: Any = None,
    **unet: Any,
) -> Path:
    """Write a tiny model as diffusers would.

    Args:
        folder: Where; made if missing.
        prediction: Prediction type of the scheduler.
        null_class: Label of the unconditional class, or None.
        root: Whether the parts lie in the folder itself, as those of the first DDPM models do.
        scheduler: In place of a ``DDPMScheduler`` with that prediction type.
        **unet: As in :func:`tiny_unet`.
    """
    network = tiny_unet(**unet)
    scheduler = scheduler or DDPMScheduler(prediction_type=prediction, clip_sample=False)
    network.save_pretrained(folder if root else folder / "unet")
    scheduler.save_pretrained(folder if root else folder / "scheduler")
    null = {} if null_class is None else {"_null_class": null_class}
    write_index(folder, {"unet": network, "scheduler": scheduler, **null})
    return folder


def seeded(make: Any, **settings: Any) -> Any:
    """A module whose fresh weights are the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(**settings).eval()


def save_vae(folder: Path, *, latent_channels: int = 4, kind: Any = AutoencoderKL, part: str = "vae") -> Any:
    """Add an autoencoder of pictures ``(3, 8, 8)`` to a folder."""
    vae = seeded(
        kind,
        latent_channels=latent_channels,
        block_out_channels=(4,),
        norm_num_groups=2,
        layers_per_block=1,
        scaling_factor=0.5,
        **({"shift_factor": 0.25} if kind is AutoencoderKL else {}),
    )
    vae.save_pretrained(folder / part)
    write_index(folder, {part: vae})
    return vae


def save_dit_model(folder: Path) -> Any:
    """A class-conditional latent transformer with learned variance, for latents ``(4, 8, 8)`` of 5 classes."""
    network = seeded(
        DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=5,
        norm_num_groups=1,
    )
    network.save_pretrained(folder / "transformer")
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    names = {"1": "b", "0": "a", "2": "c", "10": "k", "9": "j"}
    write_index(folder, {"transformer": network, "scheduler": scheduler, "id2label": names})
    return network


def save_prompt_model(folder: Path, **unet: Any) -> dict[str, Any]:
    """A latent U-Net told prompts, with its tokenizer of single letters and its text encoder, as Stable Diffusion's."""
    import transformers

    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        **unet,
    }
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokens = folder / "tokenizer"
    tokens.mkdir(parents=True)
    (tokens / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}))
    (tokens / "merges.txt").write_text("#version: 0.2\n")
    special = {"unk_token": vocabulary[-1], "pad_token": vocabulary[-1], "eos_token": vocabulary[-1]}
    described = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 64, "bos_token": vocabulary[-2], **special}
    (tokens / "tokenizer_config.json").write_text(json.dumps(described))
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    parts = {
        "unet": seeded(UNet2DConditionModel, **settings),
        "scheduler": PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        "text_encoder": seeded(transformers.CLIPTextModel, config=text),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    write_index(folder, {**parts, "tokenizer": ["transformers", "CLIPTokenizer"]})
    return parts
