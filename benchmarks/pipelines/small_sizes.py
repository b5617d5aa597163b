"""Sizes that pipelines choose by themselves, whatever their call says, made small: elsewhere tiny parts take hours."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

__all__ = ["AREAS", "shrink", "shrink_targets", "small_call"]

#: Width and height, in pixels.
_SIDE = 64
#: Attributes in which a pipeline keeps the sizes that it draws in.
_KEPT: dict[str, dict[str, Any]] = {
    "HiDreamImagePipeline": {"default_sample_size": 8},  # in latents
    "Kandinsky5I2IPipeline": {"resolutions": [(_SIDE, _SIDE)]},
    "Kandinsky5T2IPipeline": {"resolutions": [(_SIDE, _SIDE)]},
}
#: Arguments of calls whose tests leave the size to the pipeline, where the network is slow.
_ASKED: dict[str, dict[str, Any]] = {
    "AnimateDiffSDXLPipeline": {"height": 16, "width": 16, "num_frames": 2},
    "StableDiffusion3PAGImg2ImgPipeline": {"height": 16, "width": 16},
}
#: Whether a call takes the nearest size that its network was trained at; the least of these sizes is 256 x 256.
_BINNING = "use_resolution_binning"
#: Modules whose ``calculate_dimensions`` brings pictures to an area of a million pixels.
AREAS = (
    "pipelines.qwenimage.pipeline_qwenimage_edit",
    "pipelines.qwenimage.pipeline_qwenimage_edit_plus",
    "modular_pipelines.qwenimage.encoders",
)


def shrink(pipeline: Any) -> None:
    """Make the sizes that a pipeline keeps small."""
    for name, value in _KEPT.get(type(pipeline).__name__, {}).items():
        setattr(pipeline, name, value)


def small_call(pipeline: Any, takes: Collection[str]) -> dict[str, Any]:
    """Arguments of a call that keep it small, if the tests say nothing else.

    Args:
        pipeline: The pipeline.
        takes: Names of the arguments that its call takes.
    """
    binning = {_BINNING: False} if _BINNING in takes else {}
    return {**binning, **_ASKED.get(type(pipeline).__name__, {})}


def shrink_targets() -> None:
    """Make the areas small that modules of diffusers bring pictures to. The process is changed for good."""
    for name in AREAS:
        module: Any = importlib.import_module(f"diffusers.{name}")
        module.calculate_dimensions = _smaller(module.calculate_dimensions)


def _smaller(calculated: Any) -> Any:
    def calculate_dimensions(target_area: float, ratio: float) -> Any:
        return calculated(min(target_area, _SIDE**2), ratio)

    return calculate_dimensions
