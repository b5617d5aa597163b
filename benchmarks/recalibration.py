"""What a recalibration is worth after a network was changed: the card as it was, recalibrated, and calibrated anew.

    python -m benchmarks.recalibration

Every weight matrix of a network gets a random change of low rank, as large as a share of the matrix itself (Frobenius
norms). A card of the unchanged network is recalibrated on each changed network from 16 fitted and 16 held-out samples.
All errors are on noise that no fit saw.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import longstride as ls
from longstride.arrays import Array
from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import write_atomically
from longstride.table import SolverTable

ROOT = Path(__file__).resolve().parent.parent
#: Sizes of the changes; rank of each.
SIZES, RANK = (0.0, 0.03, 0.1, 0.2, 0.4), 4
#: Samples of the first card; of a recalibration; fresh samples.
ANEW, HANDFUL, FRESH = (96, 48), (32, 16), 256
BATCH = 64


def changed(model: ls.Model, size: float, seed: int = 0) -> ls.Model:
    """The model, with a change of low rank in every weight that has at least two dimensions."""
    network, generator = copy.deepcopy(model.network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim < 2:
                continue
            flat = weight.flatten(1)
            rows, columns = flat.shape
            change = torch.randn(rows, RANK, generator=generator) @ torch.randn(RANK, columns, generator=generator)
            weight.add_((size * flat.norm() / change.norm() * change).view_as(weight))
    return replace(model, network=network)


class Fresh:
    """Fresh samples of a network, with their converged solution."""

    def __init__(self, model: ls.Model, ends: SolverTable, count: int = FRESH) -> None:
        seeds = seed_range("evaluation", 0, count)
        self.parts: list[tuple[Any, Tensor, Tensor]] = []
        for begin in range(0, count, BATCH):
            part = seeds[begin : begin + BATCH]
            denoiser, noise = model.denoiser(part), model.noise(part, float(ends.sigmas[0]))
            target = solve_reference(denoiser, noise, ends, steps=64, check_samples=0).samples
            self.parts.append((denoiser, noise, target))

    def squared(self, table: SolverTable) -> Array:
        """Squared errors of a table, ``(B,)``."""
        return np.concatenate([squared_errors(ls.sample(d, x, table), target) for d, x, target in self.parts])


def measured(squared: Array) -> dict[str, float]:
    """RMSE and median."""
    return {"rmse": float(np.sqrt(squared.mean())), "median": float(np.median(np.sqrt(squared)))}


def calibrated(network: ls.Model, start: SolverTable, **options: Any) -> ls.Card:
    """The card of a whole calibration; options as of :func:`longstride.calibrate`."""
    seeds = seed_range("calibration", 0, ANEW[0])
    noise = network.noise(seeds, float(start.sigmas[0]))
    asked: dict[str, Any] = {"held_out": ANEW[1], "batch_size": BATCH, "seed": 0, **options}
    return ls.calibrate(network.denoiser(seeds), noise, start, universal=False, **asked).card


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="galaxy:hsc32", help="a model without classes")
    parser.add_argument("--nfe", type=int, default=5, help="network calls")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = ls.load_model(asked.model)
    start = base_table(model.schedule, "ddim", asked.nfe)
    rows, card = [], calibrated(model, start)
    for size in SIZES:
        moved = changed(model, size)
        fresh, seeds = Fresh(moved, start), seed_range("calibration", 1, HANDFUL[0])
        noise = moved.noise(seeds, float(start.sigmas[0]))
        again = ls.recalibrate(card, moved.denoiser(seeds), noise, held_out=HANDFUL[1], batch_size=BATCH, seed=1)
        anew = calibrated(moved, start) if size else card
        row = {
            "size": size,
            "verdict": again.verdict,
            "reason": again.reason,
            "calls": {"recalibrated": again.calls, "anew": anew.calls},
            "held_out": {name: asdict(one) for name, one in again.errors.items()},
            "base": measured(fresh.squared(card.base_table)),
            "card": measured(fresh.squared(card.table)),
            "recalibrated": measured(fresh.squared(again.card.table)),
            "anew": measured(fresh.squared(anew.table)),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    about = {"model": asked.model, "nfe": asked.nfe, "rank": RANK, "fresh": FRESH, "handful": HANDFUL, "anew": ANEW}
    content = json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
    write_atomically(asked.out / "recalibration.json", content.encode())


if __name__ == "__main__":
    main()
