"""The training loop that all shipped models share: CPU, one or more processes, resumable at any moment.

A model's own script says what is drawn (``pictures``, ``labels``), the network and its loss; the loop does
the rest: gradients averaged over processes, AdamW with warm-up and cosine decay over the hours given, an
exponential average of the weights, and checkpoints that are written beside the old one and renamed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

Loss = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, np.random.Generator], torch.Tensor]


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Options of every training script."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("data"), help="folder with or for the data")
    options.add_argument("--out", type=Path, help="checkpoint and log")
    options.add_argument("--export", type=Path, help="write the diffusers folder there and stop")
    options.add_argument("--hours", type=float, default=2.0, help="training time over all restarts")
    options.add_argument("--channels", type=int, nargs="+")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--batch", type=int, default=128, help="over all processes")
    options.add_argument("--lr", type=float, default=1.5e-3)
    options.add_argument("--threads", type=int, default=1, help="per process")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--compile", action="store_true", help="compile the training graph: slow start, faster steps")
    options.set_defaults(**defaults)
    return options


def build_unet(size: int, channels: int, args: argparse.Namespace, *, classes: int) -> UNet2DModel:
    """A small UNet with attention at its coarsest level only.

    Args:
        size: Side of the pictures.
        channels: Of the pictures.
        args: Options of :func:`parser`: channels and layers of the levels.
        classes: Number of class embeddings, the null class included.
    """
    levels = len(args.channels)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=args.layers,
        block_out_channels=tuple(args.channels),
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=classes,
    )


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


def train(
    args: argparse.Namespace,
    network: torch.nn.Module,
    loss_of: Loss,
    pictures: np.ndarray,
    labels: np.ndarray,
    *,
    null_class: int,
    mirror: bool = False,
) -> None:
    """Train until ``args.hours`` are spent, over all restarts.

    Args:
        args: Options of :func:`parser`.
        network: The network; its freshly drawn weights count only at the first start.
        loss_of: ``loss(network, x, labels, rng)`` with ``x`` in [-1, 1], shape ``(B, C, H, W)``.
        pictures: Shape ``(N, C, H, W)``, uint8.
        labels: Shape ``(N,)``.
        null_class: Label that stands for no class; one sample in ten gets it.
        mirror: Whether half of the pictures are mirrored left to right.
    """
    rank, workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if workers > 1:
        torch.distributed.init_process_group("gloo")
    images, classes = torch.from_numpy(pictures), torch.from_numpy(labels).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=1e-3)
    ema = {k: v.clone() for k, v in network.state_dict().items()}
    step, seconds = 0, 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step, seconds = state["ema"], state["step"], state["seconds"]
        print(f"resumed at step {step} after {seconds / 3600:.2f} h", flush=True)
    forward: Any = torch.compile(network) if args.compile else network
    total, losses = args.hours * 3600, []
    started = last_save = last_log = time.monotonic()
    before = seconds
    while seconds < total:
        # Draws depend on (seed, step, rank) alone: a resumed run draws what it would have drawn.
        rng = np.random.default_rng([args.seed, step, rank])
        torch.manual_seed(int(rng.integers(2**62)))
        index = torch.from_numpy(rng.integers(0, len(images), args.batch // workers))
        c = torch.where(torch.from_numpy(rng.random(len(index)) < 0.1), null_class, classes[index])
        x = images[index].float() / 127.5 - 1
        if mirror:
            x = torch.where(torch.from_numpy(rng.random(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(seconds / total, args.lr)
        loss = loss_of(forward, x, c, rng)
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
            losses.clear()
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


def export(
    args: argparse.Namespace,
    network: Any,
    scheduler: Any,
    classes: tuple[str, ...],
    null_class: int,
    part: str = "unet",
) -> None:
    """Write the averaged weights as a diffusers folder, in half precision (the network still runs in float32)."""
    state = torch.load(args.out / "checkpoint.pt", weights_only=True)
    network.load_state_dict(state["ema"])
    network.half().save_pretrained(args.export / part)
    scheduler.save_pretrained(args.export / "scheduler")
    index = {
        "_class_name": "DDPMPipeline" if part == "unet" else "DiffusionPipeline",
        "_diffusers_version": "0.42.1",
        part: ["diffusers", type(network).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "_classes": classes,
        "_null_class": null_class,
    }
    (args.export / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"step {state['step']}, {state['seconds'] / 3600:.2f} h of training -> {args.export}")


def prepare(args: argparse.Namespace) -> None:
    """Threads, seed and output folder, before the network is made."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
