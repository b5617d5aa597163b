"""Modular pipelines of untrained networks, told embeddings in place of prompts: the blocks of the loop alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.modular_pipelines.flux.modular_blocks_flux import FluxCoreDenoiseStep
from diffusers.modular_pipelines.qwenimage.modular_blocks_qwenimage import QwenImageCoreDenoiseStep
from tiny_models import seeded

__all__ = ["MODULAR", "drawn", "make_modular"]

_B = 4
_SIZE = {"height": 32, "width": 32}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assembled(blocks: Any, transformer: Any) -> Any:
    pipeline = blocks.init_pipeline()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline.update_components(transformer=transformer, scheduler=scheduler)
    return pipeline


def _qwen() -> tuple[Any, dict[str, Any]]:
    """Its blocks ask the network for the names of its arguments, and a guider combines two network calls."""
    network = seeded(
        diffusers.QwenImageTransformer2DModel,
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 2, 2),
    )
    told: dict[str, Any] = {}
    for n, side in enumerate(("", "negative_")):
        told[f"{side}prompt_embeds"] = _random(_B, 6, 16, seed=n)
        told[f"{side}prompt_embeds_mask"] = torch.ones(_B, 6, dtype=torch.long)
    return _assembled(QwenImageCoreDenoiseStep(), network), {**told, **_SIZE}


def _flux() -> tuple[Any, dict[str, Any]]:
    """Its blocks choose: with ``image_latents`` the run begins in the middle, by the option ``strength``."""
    network = seeded(
        diffusers.FluxTransformer2DModel,
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    told = {"prompt_embeds": _random(_B, 5, 16, seed=3), "pooled_prompt_embeds": _random(_B, 8, seed=4)}
    return _assembled(FluxCoreDenoiseStep(), network), {**told, **_SIZE, "guidance_scale": 3.5}


#: Makers by name.
MODULAR: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {"qwen": _qwen, "flux": _flux}


def make_modular(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline of :data:`MODULAR`, quiet and on the CPU, and options of its call for four samples."""
    pipeline, options = MODULAR[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, options


def drawn(pipeline: Any, **call: Any) -> torch.Tensor:
    """The latents of an ordinary call."""
    generators = [torch.Generator().manual_seed(n) for n in range(_B)]
    found: torch.Tensor = pipeline(**call, generator=generators).get("latents")
    return found.clone()
