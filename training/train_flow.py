"""Train the bundled flow model: a class-conditional rectified-flow transformer on Fashion-MNIST, on a CPU.

The network is diffusers' own ``DiTTransformer2DModel`` on pixels, patches of 4 × 4, told ``1000 sigma``; it predicts
the velocity ``eps - x_0`` of the straight path ``(1 - sigma) x_0 + sigma eps``, as SD3 and Flux do.

    python training/train_flow.py --data data --out runs/garments_flow --hours 2
    python training/train_flow.py --out runs/garments_flow --export src/longstride/zoo/garments_flow

Two processes share each batch, and a run that was stopped goes on, as in ``train_garments.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler

import fashion_mnist
import loop

NULL_CLASS = 10


class Flow:
    """Straight paths from pictures to noise."""

    def __init__(self) -> None:
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)

    def sample_levels(self, n: int, rng: np.random.Generator) -> torch.Tensor:
        """Sigmas ``(n,)``: mostly logit-normal (Esser et al., 2024, Sec. 3.1), where shapes form, and some uniform."""
        middle = 1 / (1 + np.exp(-rng.normal(0.0, 1.0, n)))
        return torch.tensor(np.where(rng.random(n) < 0.2, rng.uniform(1e-3, 1.0, n), middle)).float()

    def loss(
        self, network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """Mean squared error of the velocity, for images ``(B, 1, 28, 28)`` and labels ``(B,)``."""
        sigma = self.sample_levels(len(x), rng)
        eps, level = torch.randn_like(x), sigma.view(-1, 1, 1, 1)
        u = network((1 - level) * x + level * eps, 1000 * sigma, class_labels=labels).sample
        return (u - (eps - x)).square().mean()


def build() -> DiTTransformer2DModel:
    """The transformer; in evaluation mode, since it would drop labels by itself beside the loop."""
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        sample_size=28,
        patch_size=4,
        num_embeds_ada_norm=NULL_CLASS,
    ).eval()


def main() -> None:
    args = loop.parser(__doc__, out=Path("runs/garments_flow"), lr=1e-3).parse_args()
    loop.prepare(args)
    flow, network = Flow(), build()
    if args.export:
        loop.export(args, network, flow.scheduler, fashion_mnist.CLASSES, NULL_CLASS, part="transformer")
    else:
        pictures, labels = fashion_mnist.load(args.data, "train")
        loop.train(args, network, flow.loss, pictures[:, None], labels, null_class=NULL_CLASS)


if __name__ == "__main__":
    main()
