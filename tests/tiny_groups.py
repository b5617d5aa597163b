"""Whole pipelines of other groups than Stable Diffusion's, told embeddings in place of prompts: untrained and small.

A maker returns the pipeline and the options of its call for four samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.guiders import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance
from tiny_models import seeded
from tiny_pipelines import PIPELINES

__all__ = ["GROUPS", "PICTURES", "make_group"]

_B = 4
_SIZE = {"height": 16, "width": 16}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _picture(seed: int, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(_B, channels, size, size, generator=torch.Generator().manual_seed(seed))


#: One picture per sample, of values from 0 to 1.
PICTURES = _picture(9)


def _texts(width: int, length: int = 6, seed: int = 0) -> dict[str, Any]:
    names = ("prompt_embeds", "negative_prompt_embeds")
    return {name: _random(_B, length, width, seed=seed + n) for n, name in enumerate(names)}


def _flow(**settings: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **settings})


def _lumina2(folder: Path) -> tuple[Any, dict[str, Any]]:
    network = seeded(
        diffusers.Lumina2Transformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=4,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(32, 32, 32),
        cap_feat_dim=8,
    )
    vae = PIPELINES["sd3"](folder).vae
    pipeline = diffusers.Lumina2Pipeline(
        transformer=network, scheduler=_flow(shift=6.0), vae=vae, text_encoder=None, tokenizer=None
    )
    seen = torch.ones(_B, 6, dtype=torch.bool)
    told = {**_texts(8), "prompt_attention_mask": seen, "negative_prompt_attention_mask": seen}
    return pipeline, {**told, **_SIZE, "guidance_scale": 4.0, "cfg_trunc_ratio": 0.6}


def _skip_layers(folder: Path) -> tuple[Any, dict[str, Any]]:
    pipeline = PIPELINES["sd3"](folder)
    pipeline.transformer = seeded(
        diffusers.SD3Transformer2DModel,
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=3,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=8,
        pooled_projection_dim=16,
        out_channels=4,
    )
    told = {**_texts(16), "pooled_prompt_embeds": _random(_B, 16, seed=3)}
    told["negative_pooled_prompt_embeds"] = _random(_B, 16, seed=4)
    skipped = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.6}
    return pipeline, {**told, **skipped, **_SIZE, "guidance_scale": 4.0}


def _wan_parts(channels: int = 4, seed: int = 0) -> tuple[Any, Any, Any]:
    vae = seeded(
        diffusers.AutoencoderKLWan,
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        temperal_downsample=[False, True, True],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=16,
            num_layers=2,
            rope_max_seq_len=32,
        ).eval()
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return vae, network, scheduler


_VIDEO = {**_SIZE, "num_frames": 5, "guidance_scale": 3.0}


def _wan(folder: Path) -> tuple[Any, dict[str, Any]]:
    vae, network, scheduler = _wan_parts()
    pipeline = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, transformer=network
    )
    return pipeline, {**_texts(8), **_VIDEO}


def _two_networks(folder: Path) -> tuple[Any, dict[str, Any]]:
    vae, network, scheduler = _wan_parts()
    pipeline = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=scheduler,
        transformer=network,
        transformer_2=_wan_parts(seed=1)[1],
        boundary_ratio=0.8,
    )
    return pipeline, {**_texts(8), **_VIDEO, "guidance_scale_2": 2.0}


def _wan_picture(folder: Path) -> tuple[Any, dict[str, Any]]:
    vae, network, scheduler = _wan_parts(12)
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        image_encoder=None,
        image_processor=None,
        vae=vae,
        scheduler=scheduler,
        transformer=network,
    )
    return pipeline, {**_texts(8), **_VIDEO, "image": PICTURES[:1]}  # one for all, as this pipeline wants it


def _z_image(folder: Path) -> tuple[Any, dict[str, Any]]:
    network = seeded(
        diffusers.ZImageTransformer2DModel,
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=8,
        axes_dims=[4, 2, 2],
        axes_lens=[64, 32, 32],
    )
    with torch.no_grad():
        network.x_pad_token.fill_(1.0)
        network.cap_pad_token.fill_(1.0)
    vae = PIPELINES["sd3"](folder).vae
    pipeline = diffusers.ZImagePipeline(
        transformer=network, scheduler=_flow(), vae=vae, text_encoder=None, tokenizer=None
    )
    told = {name: list(one) for name, one in _texts(8).items()}
    return pipeline, {**told, **_SIZE, "guidance_scale": 3.0, "cfg_truncation": 0.7}


def _controlnet(folder: Path) -> tuple[Any, dict[str, Any]]:
    parts = PIPELINES["stable_diffusion"](folder).components
    with torch.random.fork_rng():
        torch.manual_seed(2)
        control = diffusers.ControlNetModel.from_unet(
            parts["unet"], conditioning_embedding_out_channels=(4, 8), conditioning_channels=3
        )
        for layer in (control.controlnet_mid_block, *control.controlnet_down_blocks):  # as if it had been trained
            torch.nn.init.normal_(layer.weight)
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=control.eval(), requires_safety_checker=False
    )
    own = {"image": PICTURES, "control_guidance_end": 0.5, "guidance_scale": 3.0}
    return pipeline, {**_texts(8), **own, **_SIZE}


def _pix2pix(folder: Path) -> tuple[Any, dict[str, Any]]:
    made = PIPELINES["stable_diffusion"](folder)
    unet = seeded(diffusers.UNet2DConditionModel, **{**_plain(made.unet), "in_channels": 8})
    parts = {**made.components, "unet": unet}
    pipeline = diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    return pipeline, {**_texts(8, 16), "image": PICTURES, "guidance_scale": 3.0}


def _inpaint_nine(folder: Path) -> tuple[Any, dict[str, Any]]:
    made = PIPELINES["inpaint"](folder)
    made.unet = seeded(diffusers.UNet2DConditionModel, **{**_plain(made.unet), "in_channels": 9})
    mask = torch.zeros(_B, 1, 16, 16)
    mask[..., :8] = 1
    shown = {"image": PICTURES, "mask_image": mask, "strength": 1.0, "guidance_scale": 3.0}
    return made, {**_texts(8, 16), **shown, **_SIZE}


def _plain(network: Any) -> dict[str, Any]:
    return {name: value for name, value in network.config.items() if not name.startswith("_")}


def _flux_like(kind: Any, channels: int, folder: Path) -> tuple[Any, dict[str, Any]]:
    parts = PIPELINES["flux"](folder).components
    network = seeded(
        diffusers.FluxTransformer2DModel,
        **{**_plain(parts["transformer"]), "in_channels": channels, "out_channels": 16},
    )
    takes = kind.__init__.__code__.co_varnames
    parts = {name: part for name, part in parts.items() if name in takes and part is not None}
    empty = dict.fromkeys(("text_encoder_2", "tokenizer_2"))
    told = {"prompt_embeds": _random(_B, 5, 16, seed=3), "pooled_prompt_embeds": _random(_B, 8, seed=4)}
    return kind(**{**parts, **empty, "transformer": network}), {**told, **_SIZE, "guidance_scale": 3.5}


def _kontext(folder: Path) -> tuple[Any, dict[str, Any]]:
    pipeline, told = _flux_like(diffusers.FluxKontextPipeline, 16, folder)
    return pipeline, {**told, "image": PICTURES, "max_area": 256, "_auto_resize": False}


def _fill(folder: Path) -> tuple[Any, dict[str, Any]]:
    scale = PIPELINES["flux"](folder).vae_scale_factor
    pipeline, told = _flux_like(diffusers.FluxFillPipeline, 32 + 4 * scale**2, folder)
    mask = torch.ones(_B, 1, 16, 16)
    return pipeline, {**told, "image": PICTURES, "mask_image": mask}


def _control(folder: Path) -> tuple[Any, dict[str, Any]]:
    pipeline, told = _flux_like(diffusers.FluxControlPipeline, 32, folder)
    return pipeline, {**told, "control_image": PICTURES}


def _guided(folder: Path) -> tuple[Any, dict[str, Any]]:
    network = seeded(
        diffusers.HunyuanVideo15Transformer3DModel,
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = seeded(
        diffusers.AutoencoderKLHunyuanVideo15,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipeline = diffusers.HunyuanVideo15Pipeline(
        transformer=network,
        vae=vae,
        scheduler=_flow(shift=7.0),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        guider=ClassifierFreeGuidance(guidance_scale=3.0, start=0.0, stop=0.6),
    )
    return pipeline, {**_doubly_told(16), **_SIZE, "num_frames": 5}


def _doubly_told(width: int) -> dict[str, Any]:
    told = {**_texts(width), **{f"{name}_2": one for name, one in _texts(width, 4, 7).items()}}
    masks = {}
    for name, one in told.items():
        first, dot, rest = name.partition("_embeds")
        masks[f"{first}{dot}_mask{rest}"] = torch.ones(one.shape[:2], dtype=torch.int64)
    return {**told, **masks}


def _hunyuan_image(folder: Path, *, mean_flow: bool = False, momentum: float | None = None) -> Any:
    network = seeded(
        diffusers.HunyuanImageTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=16,
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
        use_meanflow=mean_flow,
    )
    vae = seeded(
        diffusers.AutoencoderKLHunyuanImage,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        scaling_factor=0.5,
        spatial_compression_ratio=2,
        sample_size=16,
    )
    guider = None
    if momentum is not None:
        guider = AdaptiveProjectedMixGuidance(
            adaptive_projected_guidance_start_step=2, adaptive_projected_guidance_momentum=momentum
        )
    pipeline = diffusers.HunyuanImagePipeline(
        transformer=network,
        vae=vae,
        scheduler=_flow(shift=7.0),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        guider=guider,
        ocr_guider=None,
    )
    return pipeline, {**_doubly_told(16), **_SIZE}


#: Makers by name; each takes a folder for tokenizers' files.
GROUPS: dict[str, Callable[[Path], tuple[Any, dict[str, Any]]]] = {
    "lumina2": _lumina2,
    "skip_layers": _skip_layers,
    "wan": _wan,
    "two_networks": _two_networks,
    "wan_picture": _wan_picture,
    "z_image": _z_image,
    "controlnet": _controlnet,
    "pix2pix": _pix2pix,
    "inpaint_nine": _inpaint_nine,
    "kontext": _kontext,
    "fill": _fill,
    "control": _control,
    "guided": _guided,
    "momentum": lambda folder: _hunyuan_image(folder, momentum=-0.5),
    "mean_flow": lambda folder: _hunyuan_image(folder, mean_flow=True),
}


def make_group(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A pipeline of :data:`GROUPS`, quiet and on the CPU, and options of its call for four samples."""
    pipeline, options = GROUPS[name](folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, options
