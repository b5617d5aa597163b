"""The paper's effect on real networks: calibrated against classical solvers, on noise that calibration did not see.

Runs the study of ``longstride demo`` with more samples, on the bundled garment model and on a third-party galaxy
network, and writes results, plots and comparison pictures that the README shows.

    python benchmarks/paper_effect.py                      # both networks, half an hour on two cores
    python benchmarks/paper_effect.py --model garments --samples 256

The galaxy network needs ``pip install --no-deps galaxygrad==0.2.1``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from rich.console import Console

from longstride.cli.common import progress_bars
from longstride.cli.render import results_table
from longstride.demo import run_demo
from longstride.evaluation.plots import error_curves
from longstride.evaluation.study import Study
from longstride.files import write_atomically
from longstride.zoo import load_model

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["garments", "galaxy:hsc32"])
    parser.add_argument("--samples", type=int, default=512, help="evaluation samples, and as many of the teacher")
    parser.add_argument("--calibration-samples", type=int, default=96, help="half of them are held out")
    parser.add_argument("--grid", default="uniform")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--redraw", action="store_true", help="only draw the curves again, from the results files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.model:
        slug = name.replace(":", "_")
        curves = ROOT / "docs" / "images" / f"{slug}_error_vs_nfe.png"
        if args.redraw:
            error_curves(json.loads((args.out / f"{slug}.json").read_text()), curves)
            continue
        study = Study(samples=args.samples, calibration_samples=args.calibration_samples, grid=args.grid)
        work = args.out / f".{slug}"
        with progress_bars() as say:
            results = run_demo(load_model(name), study, work, say=say)
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out / f"{slug}.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(curves, (work / "error_vs_nfe.png").read_bytes())
        write_atomically(curves.with_name(f"{slug}_comparison.png"), (work / "comparison.png").read_bytes())
        shutil.rmtree(work)
        Console().print(results_table(results))


if __name__ == "__main__":
    main()
