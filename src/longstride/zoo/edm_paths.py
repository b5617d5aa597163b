"""The path down and up that EDM's two U-Nets share, and the embedding's place in it (Karras et al., 2022, App. F.2).

Layers are named by the side of the picture, as in EDM's checkpoints::

    enc.32x32_conv, enc.32x32_block0 …, enc.16x16_down, enc.16x16_block0 …      from fine to coarse
    dec.8x8_in0, dec.8x8_in1, dec.8x8_block0 …, dec.16x16_up, …                 and back; skips join at every block
    enc.16x16_aux_…, dec.32x32_aux_…                                            NCSN++'s second path, of pictures
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longstride.zoo.edm_layers import Block, Conv, Frequencies

__all__ = ["UNet"]


class UNet(nn.Module, ABC):
    """A U-Net of EDM without its embedding and its ends, which a subclass adds.

    The subclass makes its ``map_…`` layers first and then calls :meth:`make_paths`: fresh weights depend on the order.

    Args:
        settings: The arguments that make the network, by name.

    Attributes:
        settings: These arguments.
        config: Some of them, under the names that diffusers' networks have for them.
        kind: In what the blocks of the two networks differ: ``ada``, ``project``, ``scale`` and ``eps`` of
            :class:`~longstride.zoo.edm_layers.Block`.
        head: Channels of one attention head; None if one head has all.
        attends_last: Whether on the way up only the last block of a level has attention.
    """

    kind: ClassVar[dict[str, Any]]
    head: ClassVar[int | None] = None
    attends_last: ClassVar[bool] = False
    map_noise: Frequencies

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = {name: settings[name] for name in inspect.signature(type(self)).parameters}
        self.label_dim: int = settings["label_dim"]
        self.config = {
            "sample_size": settings["img_resolution"],
            "in_channels": settings["in_channels"],
            "out_channels": settings["out_channels"],
            "num_class_embeds": self.label_dim + int(self.label_dim > 0 and settings["label_dropout"] > 0),
        }

    @abstractmethod
    def embed(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """The embedding ``(B, E)`` of the noise level's cosines and sines and of the labels."""

    def add_input(self, name: str, picture: int, channels: int) -> int:
        """Add the layers of the second path at a halved level, if there are any.

        Args:
            name: Of the level.
            picture: Channels of the second path.
            channels: Channels that it is added to.

        Returns:
            Channels of the second path after them.
        """
        return picture

    @abstractmethod
    def add_output(self, name: str, level: int, channels: int) -> None:
        """Add the layers from ``channels`` to the output, if ``level`` has any; 0 is the finest."""

    def make_paths(self, first: int) -> None:
        """Make ``enc`` and ``dec``; the first convolution makes ``first`` channels."""
        sides = [self.settings["img_resolution"] >> level for level in range(len(self.settings["channel_mult"]))]
        widths = [self.settings["model_channels"] * factor for factor in self.settings["channel_mult"]]
        levels = list(zip(sides, widths, strict=True))
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self._make_decoder(levels, self._make_encoder(levels, first))

    def _make_encoder(self, levels: Sequence[tuple[int, int]], first: int) -> list[int]:
        """Layers from fine to coarse; returns the channels of every skip."""
        cout, skips, picture = first, [first], self.settings["in_channels"]
        for level, (side, width) in enumerate(levels):
            name = f"{side}x{side}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv(picture, cout, 3)
            else:
                self.enc[f"{name}_down"] = self._block(cout, cout, down=True)
                picture = self.add_input(name, picture, cout)
                skips.append(cout)
            for n in range(self.settings["num_blocks"]):
                cin, cout = cout, width
                self.enc[f"{name}_block{n}"] = self._block(cin, cout, self._attends(side))
                skips.append(cout)
        return skips

    def _make_decoder(self, levels: Sequence[tuple[int, int]], skips: list[int]) -> None:
        """Layers from coarse to fine; every block of a level but ``in…`` and ``up`` takes a skip."""
        cout, blocks = skips[-1], self.settings["num_blocks"]
        for level, (side, width) in reversed(list(enumerate(levels))):
            name = f"{side}x{side}"
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"], self.dec[f"{name}_in1"] = (
                    self._block(cout, cout, True),
                    self._block(cout, cout),
                )
            else:
                self.dec[f"{name}_up"] = self._block(cout, cout, up=True)
            for n in range(blocks + 1):
                cin, cout = cout + skips.pop(), width
                attends = self._attends(side) and (n == blocks or not self.attends_last)
                self.dec[f"{name}_block{n}"] = self._block(cin, cout, attends)
            self.add_output(name, level, cout)

    def _attends(self, side: int) -> bool:
        return side in self.settings["attn_resolutions"]

    def _block(self, cin: int, cout: int, attends: bool = False, **resample: Any) -> Block:
        known = self.settings
        heads = attends * (1 if self.head is None else cout // self.head)
        embedding, taps = known["model_channels"] * known["channel_mult_emb"], known.get("resample_filter", (1, 1))
        return Block(cin, cout, embedding, heads=heads, dropout=known["dropout"], taps=taps, **self.kind, **resample)

    def one_hot(self, labels: Tensor | None, like: Tensor) -> Tensor:
        """Labels ``(B,)`` as rows of zeros and a one; the label after the last class gives zeros, as no labels do."""
        if labels is None:
            return like.new_zeros(len(like), self.label_dim)
        return F.one_hot(labels.long(), self.label_dim + 1)[:, : self.label_dim].to(like.dtype)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The output ``(B, out_channels, H, W)`` for states ``(B, C, H, W)`` at times ``(B,)``."""
        embedding = self.embed(self.map_noise(t).to(x.dtype), class_labels)
        return self._decode(self._encode(x, embedding), embedding)

    def _encode(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """The skips from fine to coarse; the decoder begins at the last."""
        skips: list[Tensor] = []
        picture = x
        for name, layer in self.enc.items():
            if "aux_down" in name:
                picture = layer(picture)
            elif "aux_skip" in name:
                x = skips[-1] = x + layer(picture)
            elif "aux_residual" in name:
                x = skips[-1] = picture = (x + layer(picture)) * self.kind["scale"]
            else:
                x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        return skips

    def _decode(self, skips: list[Tensor], embedding: Tensor) -> Tensor:
        x = normed = skips[-1]
        total: Tensor | None = None
        for name, layer in self.upward():
            if isinstance(layer, Block):
                x = layer(x if x.shape[1] == layer.cin else torch.cat([x, skips.pop()], 1), embedding)
            elif name.endswith("_up"):
                total = layer(total)
            elif name.endswith("_norm"):
                normed = F.silu(layer(x))
            else:
                total = layer(normed) if total is None else total + layer(normed)
        assert total is not None  # the finest level has a convolution
        return total

    def upward(self) -> Iterable[tuple[str, nn.Module]]:
        """Names and layers from the coarsest level to the output."""
        return self.dec.items()
