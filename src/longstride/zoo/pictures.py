"""From latents to pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longstride.errors import InputError

__all__ = ["PictureDecoder"]


class PictureDecoder:
    """A VAE of diffusers as a function from latents to pictures: ``decode(x / scaling_factor + shift_factor)``.

    Args:
        vae: An autoencoder with ``decode``, such as ``AutoencoderKL``.

    Attributes:
        latent_channels: Channels of a latent.
        channels: Channels of a picture.

    Raises:
        InputError: its latents are normalised per channel (``latents_mean``), which is not supported.

    References:
        Rombach et al., 2022, App. G (the scaling). https://arxiv.org/abs/2112.10752
    """

    def __init__(self, vae: Any) -> None:
        config = vae.config
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise InputError(f"this {type(vae).__name__} normalises latents per channel (latents_mean): not supported")
        self.vae = vae
        self.latent_channels, self.channels = int(config["latent_channels"]), int(config["out_channels"])
        self._scale = float(config.get("scaling_factor") or 1.0)
        self._shift = float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def __call__(self, x: Tensor, batch_size: int = 8) -> Tensor:
        """Pictures ``(B, C, H, W)`` in float32 of latents ``(B, c, h, w)``, at most ``batch_size`` at a time."""
        latents = x.to(self.vae.device, self.vae.dtype) / self._scale + self._shift
        return torch.cat([self.vae.decode(part).sample.float() for part in torch.split(latents, batch_size)])
