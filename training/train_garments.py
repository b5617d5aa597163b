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

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

import fashion_mnist

NULL_CLASS = 10


def build_network(channels: tuple[int, ...], layers: int) -> UNet2DModel:
    """A small UNet: attention at the coarsest level (7×7) only, ten classes and the null class."""
    levels = len(channels)
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=layers,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=NULL_CLASS + 1,
    )


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


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over the first 1 %, then a cosine to 1 % of the peak; ``progress`` runs from 0 to 1."""
    return peak * min(1.0, progress / 0.01 + 1e-3) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def average_gradients(network: torch.nn.Module, workers: int) -> None:
    """Mean gradient over all processes, as one flat all-reduce."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    for g, mean in zip(gradients, flat.div_(workers).split([g.numel() for g in gradients]), strict=True):
        g.copy_(mean.view_as(g))


def save_atomically(state: dict[str, object], path: Path) -> None:
    """Write next to ``path``, then rename: a kill leaves the old checkpoint or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    rank, workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if workers > 1:
        torch.distributed.init_process_group("gloo")
    images, labels = fashion_mnist.load(args.data, "train")
    x_all = torch.from_numpy(images.copy()).float()[:, None] / 127.5 - 1
    c_all = torch.from_numpy(labels.copy()).long()
    network = build_network(tuple(args.channels), args.layers)
    diffusion, optimizer = Diffusion(), torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=1e-3)
    ema = {k: v.clone() for k, v in network.state_dict().items()}
    step, seconds = 0, 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step, seconds = state["ema"], state["step"], state["seconds"]
        print(f"resumed at step {step} after {seconds / 3600:.2f} h", flush=True)
    forward = torch.compile(network) if args.compile else network
    total, losses = args.hours * 3600, []
    started = last_save = last_log = time.monotonic()
    before = seconds
    while seconds < total:
        # Draws depend on (seed, step, rank) alone: a resumed run draws what it would have drawn.
        rng = np.random.default_rng([args.seed, step, rank])
        torch.manual_seed(int(rng.integers(2**62)))
        index = torch.from_numpy(rng.integers(0, len(x_all), args.batch // workers))
        c = torch.where(torch.from_numpy(rng.random(len(index)) < 0.1), NULL_CLASS, c_all[index])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(seconds / total, args.lr)
        loss = diffusion.loss(forward, x_all[index], c, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if workers > 1:
            average_gradients(network, workers)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.9995, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                ema[name].lerp_(value, 1 - decay)
        losses.append(loss.item())
        now = time.monotonic()
        seconds = before + now - started
        if workers > 1:  # every process must leave the loop at the same step
            clock = torch.tensor([seconds], dtype=torch.float64)
            torch.distributed.broadcast(clock, 0)
            seconds = clock.item()
        if rank > 0:
            continue
        if now - last_log > 30:
            record = {"step": step, "hours": round(seconds / 3600, 3), "loss": round(float(np.mean(losses)), 5)}
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(record, flush=True)
            losses, last_log = [], now
        if now - last_save > 180 or seconds >= total:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema}
            save_atomically(state | {"step": step, "seconds": seconds}, checkpoint)
            last_save = now


def export(args: argparse.Namespace) -> None:
    """Write the averaged weights as a diffusers folder, in half precision (the network still runs in float32)."""
    state = torch.load(args.out / "checkpoint.pt", weights_only=True)
    network = build_network(tuple(args.channels), args.layers)
    network.load_state_dict(state["ema"])
    network.half().save_pretrained(args.export / "unet")
    Diffusion().scheduler.save_pretrained(args.export / "scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "_classes": fashion_mnist.CLASSES,
        "_null_class": NULL_CLASS,
    }
    (args.export / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"step {state['step']}, {state['seconds'] / 3600:.2f} h of training -> {args.export}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with or for the idx files")
    parser.add_argument("--out", type=Path, default=Path("runs/garments"), help="checkpoint and log")
    parser.add_argument("--export", type=Path, help="write the diffusers folder there and stop")
    parser.add_argument("--hours", type=float, default=2.0, help="training time over all restarts")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 48, 96])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the training graph (slow start, faster steps)")
    args = parser.parse_args()
    export(args) if args.export else train(args)


if __name__ == "__main__":
    main()
