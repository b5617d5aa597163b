"""How good a shipped model is: Fréchet distance of its converged samples to real held-out pictures.

Writes the statistics of real pictures beside the model's weights (``real_efficientnet-lite0.npz``: what every later
measurement compares with, so that nobody needs the data for it), ``benchmarks/results/MODEL_quality.json``, and the
figures on the model card.

    python training/quality.py garments --data data
    python training/quality.py garments_flow --data data
    python training/quality.py cifar10 --data data
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import cifar10
import fashion_mnist
import longstride as ls
from longstride.cli.common import progress_bars
from longstride.evaluation.contestants import base_table
from longstride.evaluation.features import load_features
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.evaluation.reference_set import ReferenceSet
from longstride.evaluation.seeds import seed_range
from longstride.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
#: Evaluation seeds of a seed that no benchmark uses.
SEEDS = seed_range("evaluation", 1000, 1).start
BATCH = 100
SOURCES = {
    "garments": "the 10,000 test pictures of Fashion-MNIST",
    "garments_flow": "the 10,000 test pictures of Fashion-MNIST",
    "cifar10": "the 10,000 test pictures of CIFAR-10",
}


def pictures(model: str, data: Path, split: str, count: int) -> Iterator[torch.Tensor]:
    """Batches of real pictures in [-1, 1], in random order."""
    if model.startswith("garments"):
        found = fashion_mnist.load(data, {"train": "train", "test": "t10k"}[split])[0][:, None]
    else:
        found = cifar10.load(data, split)[0]
    chosen = np.random.default_rng(0).permutation(len(found))[:count]
    for begin in range(0, count, BATCH):
        yield torch.from_numpy(found[chosen[begin : begin + BATCH]].copy()).float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--nfe", type=int, default=24, help="network calls per sample (UniPC-3)")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--log", type=Path, help="of the training run; default: runs/MODEL/log.jsonl")
    args = parser.parse_args()
    extractor, model = load_features("efficientnet-lite0"), ls.load_model(args.model)
    assert model.folder is not None
    file = model.folder / f"real_{extractor.name}.npz"
    if not file.exists():
        test, train = (pictures(args.model, args.data, split, 10_000) for split in ("test", "train"))
        ReferenceSet.measure(test, train, extractor, args.dimensions, SOURCES[args.model]).save(file)
    real = ReferenceSet.load(file)
    table = base_table(model.schedule, "unipc", args.nfe, order=3)
    drawn, noise = Moments(real.space.dimensions), Moments(real.space.dimensions)
    generator = torch.Generator().manual_seed(0)
    with progress_bars() as say:
        for first in range(SEEDS, SEEDS + args.samples, BATCH):
            seeds = range(first, min(first + BATCH, SEEDS + args.samples))
            images = ls.sample(model.denoiser(seeds), model.noise(seeds, table.sigmas[0]), table)
            drawn.add(real.space.project(extractor(images)))
            noise.add(real.space.project(extractor(torch.randn(images.shape, generator=generator))))
            say("sampling", seeds.stop - SEEDS, args.samples)
    log = args.log or ROOT / "runs" / args.model / "log.jsonl"
    results = {
        "features": extractor.label,
        "dimensions": real.space.dimensions,
        "to": real.source,
        "samples": args.samples,
        "nfe": args.nfe,
        "fd": frechet_distance(drawn, real.moments),
        "floor": real.floor_near(args.samples)[1],
        "noise": frechet_distance(noise, real.moments),
        "fingerprint": model.fingerprint,
        "training": [json.loads(line) for line in log.read_text().splitlines()][-1],
    }
    path = ROOT / "benchmarks" / "results" / f"{args.model}_quality.json"
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    body = (
        f"| FD to the test set ({args.samples:,} pictures, {args.dimensions} principal components) | |\n|---|---|\n"
        f"| this model, {args.nfe} calls of UniPC-3 | {results['fd']:.1f} |\n"
        f"| about as many real training pictures (the floor) | {results['floor']:.1f} |\n"
        f"| as many pictures of white noise (the ceiling) | {results['noise']:.0f} |"
    )
    card = model.folder / "README.md"
    marked = re.compile(r"(<!-- quality -->\n).*?\n?(<!-- /quality -->)", re.DOTALL)
    text = marked.sub(lambda found: f"{found[1]}{body}\n{found[2]}", card.read_text())
    write_atomically(card, text.encode())
    print(json.dumps({key: value for key, value in results.items() if key != "training"}, indent=1))


if __name__ == "__main__":
    main()
