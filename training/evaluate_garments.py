"""How good the bundled garment model is: Fréchet distance of its converged samples to real held-out garments.

Writes ``benchmarks/results/garments_quality.json`` and the figures on the model card.

    python training/evaluate_garments.py --data data
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch

import fashion_mnist
import longstride as ls
from longstride.cli.common import progress_bars
from longstride.evaluation.frechet import FeatureNet, FrechetSpace, frechet_distance
from longstride.files import write_atomically
from longstride.zoo.model import BUNDLED

ROOT = Path(__file__).resolve().parent.parent
#: Seeds that nothing else uses.
SEEDS = 3_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=24, help="network calls per sample (UniPC-3)")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument(
        "--log", type=Path, default=ROOT / "runs" / "garments" / "log.jsonl", help="of the training run"
    )
    args = parser.parse_args()
    features, batch = FeatureNet(), 100

    def of_data(split: str, count: int) -> torch.Tensor:
        images, _ = fashion_mnist.load(args.data, split)
        chosen = np.random.default_rng(0).permutation(len(images))[:count]
        pictures = torch.from_numpy(images[chosen].copy()).float()[:, None] / 127.5 - 1
        return torch.cat([features(part) for part in pictures.split(batch)])

    test_features = of_data("t10k", 10_000)
    space = FrechetSpace(test_features, args.dimensions)
    test = space.project(test_features)
    model = ls.load_model("garments")
    sigmas = ls.grid("uniform", args.steps, schedule=model.schedule, final="sigma_min")
    table = ls.build("unipc", sigmas, schedule=model.schedule, order=3)
    found = []
    with progress_bars() as say:
        for first in range(SEEDS, SEEDS + args.samples, batch):
            seeds = range(first, min(first + batch, SEEDS + args.samples))
            images = ls.sample(model.denoiser(seeds), model.noise(seeds, sigmas[0]), table)
            found.append(space.project(features(images)))
            say("sampling", seeds.stop - SEEDS, args.samples)
    results = {
        "features": "EfficientNet-Lite0",
        "dimensions": args.dimensions,
        "to": "the 10,000 test pictures of Fashion-MNIST",
        "samples": args.samples,
        "nfe": args.steps,
        "fd": frechet_distance(test, torch.cat(found)),
        "floor": frechet_distance(test, space.project(of_data("train", args.samples))),
        "noise_floor": frechet_distance(test, space.project(features_of_noise(features, args.samples, batch))),
        "fingerprint": model.fingerprint,
        "training": [json.loads(line) for line in args.log.read_text().splitlines()][-1],
    }
    path = ROOT / "benchmarks" / "results" / "garments_quality.json"
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    card = BUNDLED["garments"] / "README.md"
    body = (
        f"| FD to the test set ({args.samples:,} pictures, {args.dimensions} principal components) | |\n|---|---|\n"
        f"| this model, {args.steps} calls of UniPC-3 | {results['fd']:.1f} |\n"
        f"| as many real training pictures (the floor) | {results['floor']:.1f} |\n"
        f"| as many pictures of white noise (the ceiling) | {results['noise_floor']:.0f} |"
    )
    marked = re.compile(r"(<!-- quality -->\n).*?\n?(<!-- /quality -->)", re.DOTALL)
    text = marked.sub(lambda found: f"{found[1]}{body}\n{found[2]}", card.read_text())
    write_atomically(card, text.encode())
    print(json.dumps({key: value for key, value in results.items() if key != "training"}, indent=1))


def features_of_noise(features: FeatureNet, count: int, batch: int) -> torch.Tensor:
    """Features of white noise: what no model at all would get."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([features(torch.randn(batch, 1, 28, 28, generator=generator)) for _ in range(count // batch)])


if __name__ == "__main__":
    main()
