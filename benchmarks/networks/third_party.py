r"""Two networks that others trained and published under the MIT licence, read from a folder of theirs.

``digits``: a guided flow on MNIST, from ``sofia-dominguezc/MNIST-diffusion`` (2025). It sees
:math:`t x + (1 - t) \epsilon` for t from 0 to 1 and predicts x.

``house``: a DDPM on the table House-16H, from a fork of TabDDPM (Kotelnikov et al., 2023), with a cosine schedule of
1,000 steps. Its rows hold the target and 16 features. The features are quantiles of a normal distribution.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from longstride.errors import InputError
from longstride.schedule import Schedule
from longstride.zoo.conditioning import ClassLabels
from longstride.zoo.model import Model

__all__ = ["HOUSE_START", "digits", "house"]

#: First ``sigma / alpha`` of ``house``: at its last time the ratio is 2e4, and sampling from there diverges.
HOUSE_START = 20.0


class _Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, 64, 7, 7)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 64))
        self.y_encoder = nn.Embedding(11, 128)
        self.transformer = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, activation="gelu", batch_first=True) for _ in range(4)
        )
        self.unpatch = nn.ConvTranspose2d(64, 1, 7, 7)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
        t = 1 / (1 + sigma)
        picture = (self.patch_embed(x * t[:, None, None, None]).flatten(2).transpose(1, 2)) + self.pos_embed
        angle = t[:, None] * torch.exp(torch.arange(64, device=x.device) * (-math.log(10000) / 63))
        time = torch.cat([angle.sin(), angle.cos()], 1)
        tokens = torch.cat([picture, time.reshape(-1, 2, 64), self.y_encoder(class_labels).reshape(-1, 2, 64)], 1)
        for layer in self.transformer:
            tokens = layer(tokens)
        found: Tensor = self.unpatch(tokens[:, :16].transpose(1, 2).reshape(-1, 64, 4, 4))
        return found


class _House(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128))
        self.proj = nn.Linear(17, 128)
        widths = [128, 128, 512, 512, 512, 512, 256]
        blocks = [nn.ModuleDict({"linear": nn.Linear(a, b)}) for a, b in itertools.pairwise(widths)]
        self.mlp = nn.ModuleDict({"blocks": nn.ModuleList(blocks), "head": nn.Linear(256, 17)})

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(torch.arange(64, device=x.device) * (-math.log(10000) / 64))
        h = self.proj(x) + self.time_embed(torch.cat([angle.cos(), angle.sin()], 1))
        for block in cast(nn.ModuleList, self.mlp["blocks"]):
            h = torch.relu(cast(nn.ModuleDict, block)["linear"](h))
        found: Tensor = self.mlp["head"](h)
        return found


def _weights(network: nn.Module, folder: Path) -> nn.Module:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise InputError(f"no such file: {path}; expected the weights of {folder.name}")
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def digits(folder: Path) -> Model:
    """The guided flow on digits, on the scale where alpha = 1; ``folder`` holds ``model.safetensors``."""
    network = _weights(_Digits(), folder)
    schedule = Schedule.edm(sigma_min=0.02, sigma_max=100.0)
    return Model("digits", network, schedule, "data", (1, 28, 28), ClassLabels(10, 10, tuple(map(str, range(10)))))


def house(folder: Path) -> Model:
    """The DDPM on tables; ``folder`` holds ``model.safetensors``."""
    network = _weights(_House(), folder)
    return Model("house", network, Schedule.vp(beta_schedule="cosine"), "noise", (17,))
