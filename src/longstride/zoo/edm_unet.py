r"""The two U-Nets of EDM's checkpoints, written from their papers, with parameters named as in those checkpoints.

``SongUNet`` is DDPM++ and NCSN++ (Song et al., 2021, App. H), ``DhariwalUNet`` is ADM (Dhariwal & Nichol, 2021,
App. A), both as Karras et al., 2022, App. F.2, describe them. Their names there::

    enc.32x32_conv, enc.32x32_block0 …, enc.16x16_down, enc.16x16_block0 …      from fine to coarse
    dec.8x8_in0, dec.8x8_in1, dec.8x8_block0 …, dec.16x16_up, …                 and back; skips join at every block
    enc.16x16_aux_…, dec.32x32_aux_…                                            NCSN++'s second path, of pictures

Called as ``network(x, c_noise, class_labels)`` with ``x`` of shape ``(B, C, H, W)``, times ``(B,)`` and whole-numbered
labels ``(B,)``; the label after the last class stands for no class, in networks that were trained with label dropout.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longstride.zoo.edm_layers import Block, Conv, Frequencies, group_norm

__all__ = ["EDM_UNETS", "DhariwalUNet", "SongUNet"]


class _UNet(nn.Module):
    """What both share: their configuration, the labels, and how the picture goes down and up."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        #: The arguments that made this network, and the names under which diffusers' networks tell them.
        self.settings = {name: settings[name] for name in inspect.signature(type(self)).parameters}
        self.label_dim: int = settings["label_dim"]
        self.config = {
            "sample_size": settings["img_resolution"],
            "in_channels": settings["in_channels"],
            "out_channels": settings["out_channels"],
            "num_class_embeds": self.label_dim + int(self.label_dim > 0 and settings["label_dropout"] > 0),
        }

    def _one_hot(self, labels: Tensor | None, like: Tensor) -> Tensor:
        if labels is None:
            return like.new_zeros(len(like), self.label_dim)
        return F.one_hot(labels.long(), self.label_dim + 1)[:, : self.label_dim].to(like.dtype)

    def _decode(self, x: Tensor, block: nn.Module, skips: list[Tensor], embedding: Tensor) -> Tensor:
        if isinstance(block, Block) and x.shape[1] != block.cin:
            x = torch.cat([x, skips.pop()], 1)
        out: Tensor = block(x, embedding)
        return out


class SongUNet(_UNet):
    """DDPM++ (the defaults) and NCSN++ (``fourier``, ``residual``, ``[1, 3, 3, 1]``).

    Args:
        img_resolution: Side of the picture.
        in_channels: Channels of the state.
        out_channels: Channels of the output.
        label_dim: Number of classes, or 0.
        augment_dim: Length of the augmentation label, which is zero outside training.
        model_channels: Channels at the finest level, times ``channel_mult`` per level.
        channel_mult: One factor per level.
        channel_mult_emb: Factor of the embedding's length.
        num_blocks: Residual blocks per level.
        attn_resolutions: Sides at which there is attention.
        dropout: Rate in training.
        label_dropout: Rate in training; positive where the label after the last class means no class.
        embedding_type: ``positional`` or ``fourier``.
        channel_mult_noise: Factor of the number of frequencies.
        encoder_type: ``standard``, ``skip`` or ``residual``.
        decoder_type: ``standard`` or ``skip``.
        resample_filter: Taps of the filter that doubles and halves.

    References:
        Song et al., 2021. https://arxiv.org/abs/2011.13456
    """

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
        taps, last = resample_filter, len(channel_mult) - 1

        def block(cin: int, cout: int, attention: bool = False, **resample: Any) -> Block:
            common: dict[str, Any] = {"ada": False, "project": True, "scale": 0.5**0.5, "eps": 1e-6, "taps": taps}
            return Block(cin, cout, width, heads=int(attention), dropout=dropout, **common, **resample)

        self.map_noise = Frequencies(told, random=embedding_type == "fourier", endpoint=True)
        self.map_label = nn.Linear(label_dim, told) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, told, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = nn.Linear(told, width), nn.Linear(width, width)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        cout, picture, skips = model_channels, in_channels, [model_channels]
        for level, factor in enumerate(channel_mult):
            side = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == 0:
                self.enc[f"{side}_conv"] = Conv(in_channels, cout, 3)
            else:
                self.enc[f"{side}_down"] = block(cout, cout, down=True)
                skips.append(cout)
                if encoder_type == "skip":
                    self.enc[f"{side}_aux_down"] = Conv(picture, picture, 0, down=True, taps=taps)
                    self.enc[f"{side}_aux_skip"] = Conv(picture, cout, 1)
                elif encoder_type == "residual":
                    self.enc[f"{side}_aux_residual"] = Conv(picture, cout, 3, down=True, taps=taps, fused=True)
                    picture = cout
            for n in range(num_blocks):
                cin, cout = cout, model_channels * factor
                self.enc[f"{side}_block{n}"] = block(cin, cout, img_resolution >> level in attn_resolutions)
                skips.append(cout)
        for level, factor in reversed(list(enumerate(channel_mult))):
            side = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == last:
                self.dec[f"{side}_in0"], self.dec[f"{side}_in1"] = block(cout, cout, True), block(cout, cout)
            else:
                self.dec[f"{side}_up"] = block(cout, cout, up=True)
            for n in range(num_blocks + 1):
                cin, cout = cout + skips.pop(), model_channels * factor
                attention = n == num_blocks and img_resolution >> level in attn_resolutions
                self.dec[f"{side}_block{n}"] = block(cin, cout, attention)
            if decoder_type == "skip" and level < last:
                self.dec[f"{side}_aux_up"] = Conv(out_channels, out_channels, 0, up=True, taps=taps)
            if decoder_type == "skip" or level == 0:
                self.dec[f"{side}_aux_norm"] = group_norm(cout, 1e-6)
                self.dec[f"{side}_aux_conv"] = Conv(cout, out_channels, 3)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        cos, sin = self.map_noise(t).to(x.dtype).chunk(2, 1)
        told = torch.cat([sin, cos], 1)  # the sines come first in DDPM++
        if self.map_label is not None:
            told = told + self.map_label(self._one_hot(class_labels, x) * self.label_dim**0.5)
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(told))))
        skips: list[Tensor] = []
        picture = x
        for name, block in self.enc.items():
            if "aux_down" in name:
                picture = block(picture)
            elif "aux_skip" in name:
                x = skips[-1] = x + block(picture)
            elif "aux_residual" in name:
                x = skips[-1] = picture = (x + block(picture)) * 0.5**0.5
            else:
                x = block(x, embedding) if isinstance(block, Block) else block(x)
                skips.append(x)
        total: Tensor | None = None
        normed = x
        for name, block in self.dec.items():
            if "aux_up" in name:
                total = block(total)
            elif "aux_norm" in name:
                normed = F.silu(block(x))
            elif "aux_conv" in name:
                total = block(normed) if total is None else total + block(normed)
            else:
                x = self._decode(x, block, skips, embedding)
        if total is None:
            raise RuntimeError("the finest level always has an output")
        return total


class DhariwalUNet(_UNet):
    """ADM, as in EDM's ImageNet-64 checkpoint; the arguments are those of :class:`SongUNet`.

    References:
        Dhariwal & Nichol, 2021. https://arxiv.org/abs/2105.05233
    """

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

        def block(cin: int, cout: int, attention: bool = False, **resample: Any) -> Block:
            common: dict[str, Any] = {"ada": True, "project": False, "scale": 1.0, "eps": 1e-5}
            return Block(cin, cout, width, heads=attention * (cout // 64), dropout=dropout, **common, **resample)

        self.map_noise = Frequencies(model_channels)
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = nn.Linear(model_channels, width), nn.Linear(width, width)
        self.map_label = nn.Linear(label_dim, width, bias=False) if label_dim else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        cout = model_channels * channel_mult[0]
        skips = [cout]
        for level, factor in enumerate(channel_mult):
            res = img_resolution >> level
            if level == 0:
                self.enc[f"{res}x{res}_conv"] = Conv(in_channels, cout, 3)
            else:
                self.enc[f"{res}x{res}_down"] = block(cout, cout, down=True)
                skips.append(cout)
            for n in range(num_blocks):
                cin, cout = cout, model_channels * factor
                self.enc[f"{res}x{res}_block{n}"] = block(cin, cout, res in attn_resolutions)
                skips.append(cout)
        for level, factor in reversed(list(enumerate(channel_mult))):
            res = img_resolution >> level
            if level == len(channel_mult) - 1:
                self.dec[f"{res}x{res}_in0"], self.dec[f"{res}x{res}_in1"] = block(cout, cout, True), block(cout, cout)
            else:
                self.dec[f"{res}x{res}_up"] = block(cout, cout, up=True)
            for n in range(num_blocks + 1):
                cin, cout = cout + skips.pop(), model_channels * factor
                self.dec[f"{res}x{res}_block{n}"] = block(cin, cout, res in attn_resolutions)
        self.out_norm, self.out_conv = group_norm(cout, 1e-5), Conv(cout, out_channels, 3)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        told = self.map_noise(t).to(x.dtype)
        embedding = self.map_layer1(F.silu(self.map_layer0(told)))
        if self.map_label is not None:
            embedding = embedding + self.map_label(self._one_hot(class_labels, x))
        embedding = F.silu(embedding)
        skips: list[Tensor] = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            skips.append(x)
        for block in self.dec.values():
            x = self._decode(x, block, skips, embedding)
        out: Tensor = self.out_conv(F.silu(self.out_norm(x)))
        return out


#: By name, as checkpoints and converted folders tell it.
EDM_UNETS: dict[str, type[SongUNet] | type[DhariwalUNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


def load_edm_unet(folder: Path, kind: str) -> SongUNet | DhariwalUNet:
    """A network from ``config.json`` and ``diffusion_pytorch_model.safetensors`` in a folder.

    Args:
        folder: Made by ``longstride convert``.
        kind: ``"SongUNet"`` or ``"DhariwalUNet"``.

    Raises:
        OSError, ValueError, TypeError, RuntimeError: the files are missing, damaged, or do not fit each other.
    """
    from safetensors.torch import load_file

    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = EDM_UNETS[kind](**{name: value for name, value in settings.items() if name in _arguments(kind)})
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return network


def _arguments(kind: str) -> list[str]:
    return list(inspect.signature(EDM_UNETS[kind]).parameters)
