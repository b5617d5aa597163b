"""Untrained networks of a few thousand parameters, in diffusers' folder layout, for tests that need a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel

__all__ = ["save_tiny_model", "tiny_unet"]


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


def save_tiny_model(
    folder: Path, *, prediction: str = "v_prediction", null_class: int | None = None, root: bool = False, **unet: Any
) -> Path:
    """Write a tiny model as diffusers would.

    Args:
        folder: Where; made if missing.
        prediction: Prediction type of the scheduler.
        null_class: Label of the unconditional class, or None.
        root: Whether the parts lie in the folder itself, as those of the first DDPM models do.
        **unet: As in :func:`tiny_unet`.
    """
    tiny_unet(**unet).save_pretrained(folder if root else folder / "unet")
    scheduler = DDPMScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.save_pretrained(folder if root else folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    if null_class is not None:
        index["_null_class"] = null_class
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
