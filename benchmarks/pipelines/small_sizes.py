"""Sizes that pipelines choose by themselves, whatever their call says, made small: elsewhere tiny parts take hours."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["AREAS", "shrink", "shrink_targets"]

#: Width and height, in pixels.
_SIDE = 64
#: Attributes in which a pipeline keeps the sizes that it draws in.
_KEPT: dict[str, dict[str, Any]] = {
    "HiDreamImagePipeline": {"default_sample_size": 8},  # in latents
    "Kandinsky5I2IPipeline": {"resolutions": [(_SIDE, _SIDE)]},
    "Kandinsky5T2IPipeline": {"resolutions": [(_SIDE, _SIDE)]},
}
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


def shrink_targets() -> None:
    """Make the areas small that modules of diffusers bring pictures to. The process is changed for good."""
    for name in AREAS:
        module: Any = importlib.import_module(f"diffusers.{name}")
        module.calculate_dimensions = _smaller(module.calculate_dimensions)


def _smaller(calculated: Any) -> Any:
    def calculate_dimensions(target_area: float, ratio: float) -> Any:
        return calculated(min(target_area, _SIDE**2), ratio)

    return calculate_dimensions
