"""The layers of EDM's U-Nets, with parameters named as in EDM's checkpoints (Karras et al., 2022, App. F.2).

Fresh weights are plain Gaussian noise: these networks are read from checkpoints, not trained here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Block", "Conv", "Frequencies", "group_norm"]


class Conv(nn.Module):
    """A convolution, before which the picture may be doubled or halved with a small separable filter.

    With kernel 0 there is no convolution. With ``fused`` the picture is halved after the convolution. The state holds
    the filter as ``resample_filter``.
    """

    resample_filter: Tensor

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        taps: Sequence[float] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.up, self.down, self.fused = kernel, up, down, fused
        if kernel:
            self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel) / math.sqrt(cin * kernel**2))
            self.bias = nn.Parameter(torch.zeros(cout))
        if up or down:
            row = torch.as_tensor(taps, dtype=torch.float32)
            self.register_buffer("resample_filter", (row[:, None] * row / row.sum() ** 2)[None, None])

    def _halve(self, x: Tensor, padding: int) -> Tensor:
        return F.conv2d(x, self._filter(x), groups=x.shape[1], stride=2, padding=padding)

    def _filter(self, x: Tensor) -> Tensor:
        return self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)

    def forward(self, x: Tensor) -> Tensor:
        margin = (self.resample_filter.shape[-1] - 1) // 2 if self.up or self.down else 0
        if self.fused:  # one padding for both, so that the border is filled with zeros once
            x = F.conv2d(x, self.weight, padding=self.kernel // 2 + margin)
            return self._halve(x, 0) + self.bias[:, None, None]
        if self.up:
            x = F.conv_transpose2d(x, 4 * self._filter(x), groups=x.shape[1], stride=2, padding=margin)
        if self.down:
            x = self._halve(x, margin)
        return F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2) if self.kernel else x


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Groups of at least four channels, at most 32 of them."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


class Block(nn.Module):
    """A residual block that is told the time embedding, with self-attention if ``heads`` is not 0.

    With ``ada`` the embedding scales and shifts (ADM); without, the embedding is added (DDPM++). With ``project`` a
    resampled skip is also convolved.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        embedding: int,
        *,
        heads: int = 0,
        dropout: float = 0.0,
        ada: bool,
        project: bool,
        scale: float,
        eps: float,
        up: bool = False,
        down: bool = False,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.cin, self.cout, self.heads, self.scale, self.ada = cin, cout, heads, scale, ada
        self.norm0 = group_norm(cin, eps)
        self.conv0 = Conv(cin, cout, 3, up=up, down=down, taps=taps)
        self.affine = nn.Linear(embedding, cout * (2 if ada else 1))
        self.norm1 = group_norm(cout, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = Conv(cout, cout, 3)
        self.skip: Conv | None = None
        if cin != cout or up or down:
            self.skip = Conv(cin, cout, 1 if project or cin != cout else 0, up=up, down=down, taps=taps)
        if heads:
            self.norm2 = group_norm(cout, eps)
            self.qkv = Conv(cout, 3 * cout, 1)
            self.proj = Conv(cout, cout, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y: Tensor = self.conv0(F.silu(self.norm0(x)))
        told = self.affine(embedding)[:, :, None, None]
        if self.ada:
            gain, shift = told.chunk(2, 1)
            y = self.norm1(y) * (gain + 1) + shift
        else:
            y = self.norm1(y + told)
        y = self.conv1(self.dropout(F.silu(y)))
        y = (y + (x if self.skip is None else self.skip(x))) * self.scale
        if self.heads:
            y = (y + self.proj(self.attention(y))) * self.scale
        return y

    def attention(self, y: Tensor) -> Tensor:
        """Softmax attention between the pixels of ``(B, cout, H, W)``, per head, before the projection."""
        # In the checkpoints q, k and v of a channel lie next to each other.
        q, k, v = self.qkv(self.norm2(y)).unflatten(1, (self.heads, -1, 3)).flatten(4).transpose(2, 4).unbind(3)
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(2, 3).flatten(1, 2).view_as(y)


class Frequencies(nn.Module):
    """Cosines and sines of the time: geometric frequencies, or random ones that the checkpoint keeps."""

    freqs: Tensor

    def __init__(self, channels: int, *, random: bool = False, endpoint: bool = False) -> None:
        super().__init__()
        half, self.factor = channels // 2, 2 * math.pi if random else 1.0
        steps = torch.arange(half, dtype=torch.float32) / (half - int(endpoint))
        self.register_buffer("freqs", 16 * torch.randn(half) if random else 1e-4**steps, persistent=random)

    def forward(self, t: Tensor) -> Tensor:
        phase = t.float()[:, None] * (self.factor * self.freqs.float())
        return torch.cat([phase.cos(), phase.sin()], 1)
