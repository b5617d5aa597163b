"""ComfyUI nodes of longstride; README.md beside this file says how to install and use them.

ComfyUI reads the two mappings at the end. Its own modules are imported where a node runs, so that this file loads
without them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import longstride as ls
from longstride.integrations.comfyui import calibrate_guided, one_prompt
from longstride.integrations.k_diffusion import sample_longstride, sigmas_of

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]


def _output() -> Path:
    """ComfyUI's output folder."""
    import folder_paths

    return Path(folder_paths.get_output_directory())


def _located(card: str) -> str:
    """A card's path as typed, or in ComfyUI's output folder if it is only there."""
    if Path(card).exists():
        return card
    inside = _output() / card
    return str(inside) if inside.exists() else card


def _digest(card: str | None) -> str:
    """What tells one content of a card from another; ComfyUI runs a node again if it changes.

    ComfyUI gives None for a path that comes from another node: then a change of that node is enough.
    """
    try:
        return hashlib.sha256(Path(_located(card or "")).read_bytes()).hexdigest()
    except (OSError, ImportError):
        return ""


class LongstrideSampler:
    """A sampler: a calibrated one from a card, or a classical one."""

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get"
    CATEGORY = "sampling/custom_sampling/samplers"
    DESCRIPTION = "A sampler that a card holds. Take its levels from 'longstride levels of a card'."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs of the node."""
        return {
            "required": {"solver": (sorted(ls.SOLVERS), {"default": "dpmpp_2m"})},
            "optional": {"card": ("STRING", {"default": "", "tooltip": "Path of a card; empty: the solver alone."})},
        }

    @classmethod
    def IS_CHANGED(cls, solver: str | None = None, card: str | None = None) -> str:
        """The card's content, because a card may be calibrated again under its name."""
        del solver
        return _digest(card)

    def get(self, solver: str, card: str = "") -> tuple[Any]:
        """The sampler."""
        from comfy.samplers import KSAMPLER

        loaded = ls.load_card(_located(card)) if card else None

        def sampler(model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None):
            return sample_longstride(model, x, sigmas, extra_args, callback, disable, solver=solver, card=loaded)

        return (KSAMPLER(sampler),)


class LongstrideSigmas:
    """Levels of a card."""

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get"
    CATEGORY = "sampling/custom_sampling/schedulers"
    DESCRIPTION = "The levels that a card was calibrated on."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs of the node."""
        return {"required": {"card": ("STRING", {"default": "card.json"})}}

    @classmethod
    def IS_CHANGED(cls, card: str | None = None) -> str:
        """The card's content, because a card may be calibrated again under its name."""
        return _digest(card)

    def get(self, card: str) -> tuple[Any]:
        """The levels."""
        return (sigmas_of(_located(card)),)


class LongstrideCalibrate:
    """Makes a card for a model with its conditioning, cfg and shape of latents."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("card",)
    FUNCTION = "calibrate"
    CATEGORY = "sampling/custom_sampling"
    OUTPUT_NODE = True
    DESCRIPTION = "Calibrates a sampler once. Its card is written into the output folder; its path is the output."
    #: Cards that were written since ComfyUI started.
    written: ClassVar[set[Path]] = set()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs of the node."""
        whole = {"min": 1, "max": 1000}
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING", {"tooltip": "A typical prompt."}),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT", {"tooltip": "Gives the size, and how many pictures run at once."}),
                "cfg": ("FLOAT", {"default": 7.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}),
                "nfe": ("INT", {"default": 8, **whole, "tooltip": "Steps of the sampler that is made."}),
                "samples": ("INT", {"default": 96, **whole, "min": 2, "tooltip": "128 for 6 steps or fewer."}),
                "held_out": ("INT", {"default": 48, **whole, "tooltip": "Further samples, which judge the result."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}),
                "name": ("STRING", {"default": "my card", "tooltip": "Written to output/longstride/NAME.json."}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, name: str | None = None, **others: Any) -> float | str:
        """Something new each time if the card that was written is gone; ComfyUI itself notices changed inputs."""
        del others
        gone = name is not None and cls._path(name) in cls.written and not cls._path(name).exists()
        return float("nan") if gone else ""

    @staticmethod
    def _path(name: str) -> Path:
        """Where the card of a name is written.

        Raises:
            InputError: the name is that of a folder, or leads out of the folder.
        """
        if not name.strip() or name != Path(name).name or "\\" in name or name.startswith("."):
            raise ls.InputError(f"name must be a plain name of a file, got {name!r}")
        return _output() / "longstride" / f"{name.removesuffix('.json')}.json"

    def calibrate(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        cfg: float,
        nfe: int,
        samples: int,
        held_out: int,
        seed: int,
        name: str,
    ) -> tuple[str]:
        """Calibrate, write the card, and return its path."""
        import torch
        from comfy.sample import fix_empty_latent_channels
        from comfy.samplers import KSAMPLER, CFGGuider
        from comfy.utils import ProgressBar

        path = self._path(name)
        one_prompt(positive, negative)
        guider = CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        bar = ProgressBar(1)
        result = calibrate_guided(
            guider,
            KSAMPLER,
            model.get_model_object("model_sampling"),
            fix_empty_latent_channels(model, torch.zeros_like(latent_image["samples"])),
            nfe=nfe,
            samples=samples,
            held_out=held_out,
            seed=seed,
            name=name,
            progress=lambda done, total, what: bar.update_absolute(done, total),
            called=lambda: bar.update(0),  # ComfyUI asks there whether the user has stopped the work
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        result.card.save(path)
        self.written.add(path)
        return (str(path),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "LongstrideSampler": LongstrideSampler,
    "LongstrideSigmas": LongstrideSigmas,
    "LongstrideCalibrate": LongstrideCalibrate,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LongstrideSampler": "longstride sampler",
    "LongstrideSigmas": "longstride levels of a card",
    "LongstrideCalibrate": "longstride calibrate",
}
