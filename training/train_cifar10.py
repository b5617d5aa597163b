"""Train a class-conditional CIFAR-10 model with EDM's preconditioning, on a CPU.

The network is diffusers' own ``UNet2DModel`` and its scheduler an ``EDMEulerScheduler``: alpha = 1, sigma from
0.002 to 80, told to the network as ``ln(sigma) / 4`` (Karras et al., 2022, Table 1). It sees the null class
(label 10) for one sample in ten.

    python training/train_cifar10.py --data data --hours 4
    python training/train_cifar10.py --export models/cifar10

Two processes share each batch (gradients are averaged; each keeps to one thread):

    torchrun --nproc-per-node 2 training/train_cifar10.py --data data --hours 4

A run stopped at any moment goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import EDMEulerScheduler

import cifar10
import loop

NULL_CLASS = 10
SIGMA_DATA = 0.5


def loss(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """EDM's loss: the mean squared error of what the bare network returns (Karras et al., 2022, Eq. 8)."""
    log_sigma = torch.from_numpy(rng.normal(-1.2, 1.2, len(x))).float()
    sigma = log_sigma.exp().view(-1, 1, 1, 1)
    noisy = x + sigma * torch.randn_like(x)
    total = (sigma**2 + SIGMA_DATA**2).sqrt()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(noisy / total, log_sigma / 4, class_labels=labels).sample
    target = (x - SIGMA_DATA**2 / total**2 * noisy) * total / (sigma * SIGMA_DATA)
    return (out.float() - target).square().mean()


def main() -> None:
    defaults = {"out": Path("runs/cifar10"), "channels": [32, 64, 128, 128], "batch": 64, "lr": 1e-3}
    args = loop.parser(__doc__, **defaults).parse_args()
    loop.prepare(args)
    network = loop.build_unet(32, 3, args, classes=NULL_CLASS + 1)
    if args.export:
        loop.export(args, network, EDMEulerScheduler(sigma_data=SIGMA_DATA), cifar10.CLASSES, NULL_CLASS)
    else:
        loop.train(args, network, loss, *cifar10.load(args.data, "train"), null_class=NULL_CLASS, mirror=True)


if __name__ == "__main__":
    main()
