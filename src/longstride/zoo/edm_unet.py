r"""The two U-Nets of EDM's checkpoints, written from their papers, with the names of parameters in the checkpoints.

``SongUNet`` is DDPM++ and NCSN++ (Song et al., 2021, App. H). ``DhariwalUNet`` is ADM (Dhariwal & Nichol, 2021,
App. A). Karras et al., 2022, App. F.2, describe both; :class:`~longstride.zoo.edm_paths.UNet` is what they share.

Both are called as ``network(x, c_noise, class_labels)`` with ``x`` of shape ``(B, C, H, W)``, times ``(B,)`` and
whole-numbered labels ``(B,)``. The label after the last class stands for no class, if the network was trained with
label dropout.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from longstride.zoo.edm_layers import Conv, Frequencies, group_norm
from longstride.zoo.edm_paths import UNet

__all__ = ["EDM_UNETS", "DhariwalUNet", "SongUNet", "load_edm_unet"]


class SongUNet(UNet):
    """DDPM++ (the defaults) and NCSN++ (``fourier``, ``residual``, ``[1, 3, 3, 1]``).

    Args:
        img_resolution: Side of the picture.
        in_channels: Channels of the state.
        out_channels: Channels of the output.
        label_dim: Number of classes, or 0.
        augment_dim: Length of the augmentation label; the label is zero outside training.
        model_channels: Channels at the finest level, times ``channel_mult`` per level.
        channel_mult: One factor per level.
        channel_mult_emb: Factor of the embedding's length.
        num_blocks: Residual blocks per level.
        attn_resolutions: Sides at which there is attention.
        dropout: Rate in training.
        label_dropout: Rate in training; if positive, the label after the last class means no class.
        embedding_type: ``positional`` or ``fourier``.
        channel_mult_noise: Factor of the number of frequencies.
        encoder_type: ``standard``, ``skip`` or ``residual``.
        decoder_type: ``standard`` or ``skip``.
        resample_filter: Taps of the filter that doubles and halves.

    References:
        Song et al., 2021. https://arxiv.org/abs/2011.13456
    """

    kind: ClassVar[dict[str, Any]] = {"ada": False, "project": True, "scale": 0.5**0.5, "eps": 1e-6}
    attends_last = True

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(locals())
        width, told = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        self.encoder_type, self.decoder_type, self.taps = encoder_type, decoder_type, resample_filter
        self.map_noise = Frequencies(told, random=embedding_type == "fourier", endpoint=True)
        self.map_label = nn.Linear(label_dim, told) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, told, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = nn.Linear(told, width), nn.Linear(width, width)
        self.make_paths(model_channels)

    def add_input(self, name: str, picture: int, channels: int) -> int:
        if self.encoder_type == "skip":
            self.enc[f"{name}_aux_down"] = Conv(picture, picture, 0, down=True, taps=self.taps)
            self.enc[f"{name}_aux_skip"] = Conv(picture, channels, 1)
        elif self.encoder_type == "residual":
            self.enc[f"{name}_aux_residual"] = Conv(picture, channels, 3, down=True, taps=self.taps, fused=True)
            return channels
        return picture

    def add_output(self, name: str, level: int, channels: int) -> None:
        made, coarsest = self.config["out_channels"], len(self.settings["channel_mult"]) - 1
        if self.decoder_type == "skip" and level < coarsest:
            self.dec[f"{name}_aux_up"] = Conv(made, made, 0, up=True, taps=self.taps)
        if self.decoder_type == "skip" or level == 0:
            self.dec[f"{name}_aux_norm"] = group_norm(channels, self.kind["eps"])
            self.dec[f"{name}_aux_conv"] = Conv(channels, made, 3)

    def embed(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        cos, sin = noise.chunk(2, 1)
        told = torch.cat([sin, cos], 1)  # the sines come first in DDPM++
        if self.map_label is not None:
            told = told + self.map_label(self.one_hot(labels, noise) * self.label_dim**0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(told))))


class DhariwalUNet(UNet):
    """ADM, as in EDM's ImageNet-64 checkpoint; :class:`SongUNet` explains the arguments.

    References:
        Dhariwal & Nichol, 2021. https://arxiv.org/abs/2105.05233
    """

    kind: ClassVar[dict[str, Any]] = {"ada": True, "project": False, "scale": 1.0, "eps": 1e-5}
    head = 64

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        width = model_channels * channel_mult_emb
        self.map_noise = Frequencies(model_channels)
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = nn.Linear(model_channels, width), nn.Linear(width, width)
        self.map_label = nn.Linear(label_dim, width, bias=False) if label_dim else None
        self.make_paths(model_channels * channel_mult[0])

    def add_output(self, name: str, level: int, channels: int) -> None:
        if level == 0:
            self.out_norm = group_norm(channels, self.kind["eps"])
            self.out_conv = Conv(channels, self.config["out_channels"], 3)

    def embed(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        told = self.map_layer1(F.silu(self.map_layer0(noise)))
        if self.map_label is not None:
            told = told + self.map_label(self.one_hot(labels, noise))
        return F.silu(told)

    def upward(self) -> Iterable[tuple[str, nn.Module]]:
        return [*super().upward(), ("out_norm", self.out_norm), ("out_conv", self.out_conv)]


#: The networks by the names in checkpoints and converted folders.
EDM_UNETS: dict[str, type[SongUNet] | type[DhariwalUNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


def load_edm_unet(folder: Path, kind: str) -> SongUNet | DhariwalUNet:
    """A network from ``config.json`` and ``diffusion_pytorch_model.safetensors`` in a folder.

    Args:
        folder: Made by ``longstride convert``.
        kind: ``"SongUNet"`` or ``"DhariwalUNet"``.

    Raises:
        OSError, ValueError, TypeError, RuntimeError: the files are missing, damaged, or do not fit each other.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = EDM_UNETS[kind](**{name: value for name, value in settings.items() if name in _arguments(kind)})
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return network


def _arguments(kind: str) -> list[str]:
    return list(inspect.signature(EDM_UNETS[kind]).parameters)
