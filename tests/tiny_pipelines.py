"""Whole diffusers pipelines of untrained networks, assembled without a hub: small, but every part is the real class."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tiny_models import seeded, tiny_unet

__all__ = ["PIPELINES", "latents_of", "make_pipeline"]

#: Stable Diffusion's process.
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_LETTERS = [chr(c) for c in range(97, 123)]
_VOCABULARY = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
_LENGTH = 16


def _tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer of single letters."""
    vocabulary = {token: n for n, token in enumerate(_VOCABULARY)}
    place = folder / "tokenizer"
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    by_file = {"vocab_file": str(place / "vocab.json"), "merges_file": str(place / "merges.txt")}
    takes = inspect.signature(
        transformers.CLIPTokenizer.__init__
    ).parameters  # transformers 5 takes the tables themselves
    return transformers.CLIPTokenizer(
        **({"vocab": vocabulary, "merges": []} if "vocab" in takes else by_file),
        unk_token=_VOCABULARY[-1],
        pad_token=_VOCABULARY[-1],
        eos_token=_VOCABULARY[-1],
        bos_token=_VOCABULARY[-2],
        model_max_length=_LENGTH,
    )


def _text_encoder(projection: bool = False, width: int = 8) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=_LENGTH,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return seeded(kind, config=config)


def _vae(channels: int = 4, **settings: Any) -> Any:
    return seeded(
        diffusers.AutoencoderKL,
        latent_channels=channels,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        layers_per_block=1,
        **settings,
    )


def _unet(channels: int = 4, **settings: Any) -> Any:
    return seeded(
        diffusers.UNet2DConditionModel,
        **{
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": 4,
            "block_out_channels": (8, 8),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            **settings,
        },
    )


def _ddpm(folder: Path) -> Any:
    return diffusers.DDPMPipeline(unet=tiny_unet(classes=None), scheduler=diffusers.DDPMScheduler(clip_sample=False))


def _ddim(folder: Path) -> Any:
    return diffusers.DDIMPipeline(unet=tiny_unet(classes=None), scheduler=diffusers.DDIMScheduler(clip_sample=False))


def _stable_diffusion(folder: Path, kind: Any = diffusers.StableDiffusionPipeline, channels: int = 4) -> Any:
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1, **STABLE_DIFFUSION)
    return kind(
        vae=_vae(),
        text_encoder=_text_encoder(),
        tokenizer=_tokenizer(folder),
        unet=_unet(channels),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _img2img(folder: Path) -> Any:
    return _stable_diffusion(folder, diffusers.StableDiffusionImg2ImgPipeline)


def _inpaint(folder: Path) -> Any:
    return _stable_diffusion(folder, diffusers.StableDiffusionInpaintPipeline)


def _xl(folder: Path) -> Any:
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **STABLE_DIFFUSION)
    unet = _unet(
        cross_attention_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
        use_linear_projection=True,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(),
        text_encoder_2=_text_encoder(projection=True),
        tokenizer=_tokenizer(folder),
        tokenizer_2=_tokenizer(folder),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def _dit(folder: Path) -> Any:
    network = seeded(
        diffusers.DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=1,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.DiTPipeline(transformer=network, vae=_vae(), scheduler=scheduler)


def _sd3(folder: Path) -> Any:
    network = seeded(
        diffusers.SD3Transformer2DModel,
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=8,
        pooled_projection_dim=16,
        out_channels=4,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=network,
        vae=_vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=_text_encoder(projection=True),
        text_encoder_2=_text_encoder(projection=True),
        text_encoder_3=None,
        tokenizer=_tokenizer(folder),
        tokenizer_2=_tokenizer(folder),
        tokenizer_3=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux(folder: Path) -> Any:
    network = seeded(
        diffusers.FluxTransformer2DModel,
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(
        transformer=network,
        vae=_vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=_text_encoder(),
        tokenizer=_tokenizer(folder),
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=scheduler,
    )


#: Makers by name; each takes a folder for its tokenizer's files.
PIPELINES = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "stable_diffusion": _stable_diffusion,
    "img2img": _img2img,
    "inpaint": _inpaint,
    "xl": _xl,
    "dit": _dit,
    "sd3": _sd3,
    "flux": _flux,
}


def make_pipeline(name: str, folder: Path) -> Any:
    """A pipeline of :data:`PIPELINES`, quiet and on the CPU."""
    pipeline = PIPELINES[name](folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents_of(name: str, pipeline: Any, steps: int, seed: int = 0, **options: Any) -> torch.Tensor:
    """What a pipeline makes from a seed, as tensors before any rounding to pictures."""
    generator = torch.Generator().manual_seed(seed)
    prompt = ["a cat", "two dogs"]
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    common = {"num_inference_steps": steps, "generator": generator, "output_type": "latent"}
    if name == "ddpm" or name == "ddim":
        kind = {"batch_size": 2, "num_inference_steps": steps, "generator": generator, "output_type": "np"}
        return torch.from_numpy(pipeline(**{**kind, **options}).images)
    if name == "dit":
        kind = {"class_labels": [1, 7], "guidance_scale": 3.0, "output_type": "np"}
        kind |= {"num_inference_steps": steps, "generator": generator}
        return torch.from_numpy(pipeline(**{**kind, **options}).images)
    own: dict[str, Any] = {"prompt": prompt, "guidance_scale": 4.0, "height": 16, "width": 16}
    if name == "img2img":
        own = {"prompt": prompt, "guidance_scale": 4.0, "image": picture, "strength": 0.6}
    if name == "inpaint":
        mask = torch.zeros(2, 1, 16, 16)
        mask[:, :, :, :8] = 1
        own |= {"image": picture, "mask_image": mask, "strength": 1.0}
    if name == "flux":
        own["prompt_embeds"] = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
        own["pooled_prompt_embeds"] = torch.randn(2, 8, generator=torch.Generator().manual_seed(4))
        own["prompt"] = None
    return pipeline(**{**common, **own, **options}).images
