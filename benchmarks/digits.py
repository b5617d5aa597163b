"""A guided network of handwritten digits that others trained, read from a folder.

The weights are those of the public repository ``sofia-dominguezc/MNIST-diffusion`` (2025, MIT licence), converted to
safetensors. The network sees :math:`x_t = t x + (1 - t) \\epsilon` with pixels from 0 to 1, and predicts x.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import longstride as ls
from longstride.errors import InputError
from longstride.zoo.conditioning import ClassLabels

__all__ = ["load_digits"]

#: Tokens of the time and of the label, behind those of the picture.
_TOLD = 4


class Digits(torch.nn.Module):
    """The transformer; its states are on the scale where alpha = 1, and its times are levels."""

    def __init__(self, dim: int = 64, heads: int = 4, layers: int = 4, patch: int = 7, classes: int = 10) -> None:
        super().__init__()
        self.patch_embed = torch.nn.Conv2d(1, dim, patch, patch)
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, (28 // patch) ** 2, dim))
        self.transformer = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True) for _ in range(layers)
        )
        self.unpatch = torch.nn.ConvTranspose2d(dim, 1, patch, patch)
        self.y_encoder = torch.nn.Embedding(classes + 1, 2 * dim)

    def forward(self, x: Tensor, times: Tensor, class_labels: Tensor) -> Tensor:
        """The clean prediction for states ``(B, 1, 28, 28)`` at levels ``(B,)``."""
        t = 1 / (1 + times)
        picture = self.patch_embed(x * t[:, None, None, None])
        shape, dim = picture.shape, picture.shape[1]
        angles = t[:, None] * torch.exp(torch.arange(dim, device=x.device) * (-math.log(10_000) / (dim - 1)))
        told = [torch.cat([angles.sin(), angles.cos()], 1), self.y_encoder(class_labels)]
        tokens = torch.cat(
            [picture.flatten(2).transpose(1, 2) + self.pos_embed, *(one.view(-1, 2, dim) for one in told)], 1
        )
        for layer in self.transformer:
            tokens = layer(tokens)
        out: Tensor = self.unpatch(tokens[:, :-_TOLD].transpose(1, 2).reshape(shape))
        return out


def load_digits(folder: Path) -> ls.Model:
    """The network of a folder with ``model.safetensors``.

    Raises:
        InputError: there is no such file.
    """
    file = folder / "model.safetensors"
    if not file.exists():
        raise InputError(f"there is no {file}: --zoo names the folder that holds digits/model.safetensors")
    network = Digits()
    network.load_state_dict(load_file(file))
    schedule = ls.Schedule.edm(sigma_min=0.02, sigma_max=100.0)
    classes = ClassLabels(10, null_class=10, names=tuple(map(str, range(10))))
    return ls.Model("digits", network.eval().requires_grad_(False), schedule, "data", (1, 28, 28), classes)
