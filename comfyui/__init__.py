"""ComfyUI nodes of longstride: put or link this folder into ``custom_nodes``, with longstride installed beside ComfyUI.

``LongstrideSampler`` goes where a KSAMPLER goes (SamplerCustom), ``LongstrideSigmas`` where its levels come from. Give
both the same card, and the picture takes as many network calls as the card says.
"""

from __future__ import annotations

from typing import Any

import longstride as ls
from longstride.integrations.k_diffusion import sample_longstride, sigmas_of

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]


class LongstrideSampler:
    """A sampler: a calibrated one from a card, or a classical one."""

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get"
    CATEGORY = "sampling/custom_sampling/samplers"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs of the node."""
        return {
            "required": {"solver": (sorted(ls.SOLVERS), {"default": "dpmpp_2m"})},
            "optional": {"card": ("STRING", {"default": "", "tooltip": "Path of a card; empty: the solver alone."})},
        }

    def get(self, solver: str, card: str = "") -> tuple[Any]:
        """The sampler."""
        from comfy.samplers import KSAMPLER

        loaded = ls.load_card(card) if card else None

        def sampler(model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None):
            return sample_longstride(model, x, sigmas, extra_args, callback, disable, solver=solver, card=loaded)

        return (KSAMPLER(sampler),)


class LongstrideSigmas:
    """Levels of a card."""

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get"
    CATEGORY = "sampling/custom_sampling/schedulers"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs of the node."""
        return {"required": {"card": ("STRING", {"default": "card.json"})}}

    def get(self, card: str) -> tuple[Any]:
        """The levels."""
        return (sigmas_of(card),)


NODE_CLASS_MAPPINGS: dict[str, type] = {"LongstrideSampler": LongstrideSampler, "LongstrideSigmas": LongstrideSigmas}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LongstrideSampler": "longstride sampler",
    "LongstrideSigmas": "longstride levels of a card",
}
