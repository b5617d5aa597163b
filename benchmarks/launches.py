"""How often the default calibration calls a network, at 64 samples per call: launches, not samples.

    python -m benchmarks.launches --label after

A launch costs a GPU about the same for 8 samples as for 64, so that their number is what a calibration takes there.
Rows with another label in the results file are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import longstride as ls
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent


def count(name: str, nfe: int, batch_size: int) -> dict[str, Any]:
    """Launches of a default calibration of a model, and samples that the network saw in them."""
    model = ls.load_model(name)
    table = base_table(model.schedule, "ddim", nfe)
    seeds = seed_range("calibration", 0, (128 if nfe <= 6 else 96) + 48)
    denoiser, launches = model.denoiser(seeds), list[int]()
    network = denoiser.model

    def counted(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        launches.append(len(x))
        return network(x, *args, **kwargs)

    denoiser.model = counted
    noise = model.noise(seeds, table.sigmas[0])
    result = ls.calibrate(denoiser, noise, table, held_out=48, batch_size=batch_size, seed=0, universal=False)
    end = result.end
    return {
        "model": name,
        "nfe": nfe,
        "batch_size": batch_size,
        "launches": len(launches),
        "samples": sum(launches),
        "calls": result.calls,
        "rmse": end.calibrated.rmse,
        "base_rmse": end.base.rmse,
        "accepted": end.accepted,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", required=True, help="of the code that is measured, such as before or after")
    parser.add_argument("--model", default="galaxy:hsc32", help="as in longstride calibrate")
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 8])
    parser.add_argument("--batch-size", type=int, default=64, help="most samples per network call")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "launches.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else []
    for nfe in asked.nfe:
        row = {"label": asked.label, **count(asked.model, nfe, asked.batch_size)}
        key = ("label", "model", "nfe", "batch_size")
        rows = [one for one in rows if any(one[name] != row[name] for name in key)] + [row]
        print(row, flush=True)
        write_atomically(asked.out, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
