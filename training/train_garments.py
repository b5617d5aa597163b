"""Train the bundled garment model: a class-conditional diffusion UNet on Fashion-MNIST, on a CPU.

The network is diffusers' own ``UNet2DModel`` with its own scheduler config, so it loads through the
same path as ``google/ddpm-cifar10-32``. It predicts v, takes fractional times, and sees the null
class (label 10) for one sample in ten, so that guided and unguided sampling both work.

    python training/train_garments.py --data data --out runs/garments --hours 2
    python training/train_garments.py --out runs/garments --export src/longstride/zoo/garments

Two processes share each batch (gradients are averaged; each keeps to one thread):

    torchrun --nproc-per-node 2 training/train_garments.py --out runs/garments

A run stopped at any moment goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler

import fashion_mnist
import loop

NULL_CLASS = 10


class Diffusion:
    """The variance-preserving process with DDPM's linear betas, at continuous times.

    ``log(sigma / alpha)`` is interpolated linearly between the integer times of the scheduler.
    """

    def __init__(self) -> None:
        self.scheduler = DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
        alphas_cumprod = self.scheduler.alphas_cumprod.double().numpy()
        self.log_sigmas = 0.5 * np.log((1 - alphas_cumprod) / alphas_cumprod)

    def sample_levels(self, n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """``log(sigma / alpha)`` and time, each ``(n,)``: mostly log-normal around the levels where shapes form."""
        low, high = self.log_sigmas[[0, -1]]
        log_sigma = rng.normal(-0.6, 1.5, n)
        tails = rng.random(n) < 0.15
        log_sigma = np.where(tails, rng.uniform(low, high, n), log_sigma).clip(low, high)
        t = np.interp(log_sigma, self.log_sigmas, np.arange(len(self.log_sigmas)))
        return torch.tensor(log_sigma).float(), torch.tensor(t).float()

    def loss(
        self, network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """Mean squared error of v, for images ``(B, 1, 28, 28)`` and labels ``(B,)``; one noise level per sample."""
        log_sigma, t = self.sample_levels(len(x), rng)
        alpha = torch.rsqrt(1 + torch.exp(2 * log_sigma)).view(-1, 1, 1, 1)
        sigma = torch.sqrt(1 - alpha**2)
        eps = torch.randn_like(x)
        with torch.autocast("cpu", torch.bfloat16):
            v = network(alpha * x + sigma * eps, t, class_labels=labels).sample
        return (v.float() - (alpha * eps - sigma * x)).square().mean()


def main() -> None:
    args = loop.parser(__doc__, out=Path("runs/garments"), channels=[16, 48, 96]).parse_args()
    loop.prepare(args)
    diffusion, network = Diffusion(), loop.build_unet(28, 1, args, classes=NULL_CLASS + 1)
    if args.export:
        loop.export(args, network, diffusion.scheduler, fashion_mnist.CLASSES, NULL_CLASS)
    else:
        pictures, labels = fashion_mnist.load(args.data, "train")
        loop.train(args, network, diffusion.loss, pictures[:, None], labels, null_class=NULL_CLASS)


if __name__ == "__main__":
    main()
