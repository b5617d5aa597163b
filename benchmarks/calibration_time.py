"""How long the default calibration takes on the bundled model, from nothing to a card: whole processes, all cores.

python -m benchmarks.calibration_time --nfe 5 8 --processes 1 2
python -m benchmarks.calibration_time --nfe 5 8 --device cuda  # into results/cuda
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import longstride as ls
from benchmarks.peak_memory import device_name
from longstride.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 8])
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="that share the cores, by torchrun")
    parser.add_argument("--device", default="cpu", help="as in longstride calibrate")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    one, rows = seconds_per_call(args.device), []
    about = {"model": "garments", "cores": cores, "ms_per_call_and_sample": 1000 * one}
    folder, device = ROOT / "benchmarks" / "results", torch.device(args.device)
    if name := device_name(device):
        about["device"], folder = name, folder / device.type
    folder.mkdir(exist_ok=True)
    for nfe, processes in itertools.product(args.nfe, args.processes):
        many = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "card.json"
            command = ["-m", "longstride", "calibrate", "garments", f"--nfe={nfe}", f"--out={out}"]
            command.append(f"--device={args.device}")
            begin = time.monotonic()
            subprocess.run([sys.executable, *many, *command], check=True, capture_output=True)
            seconds = time.monotonic() - begin
            card = ls.load_card(out)
        row = {
            "nfe": nfe,
            "processes": processes,
            "seconds": seconds,
            "calls": card.calls,
            "accepted": card.end.accepted,
        }
        rows.append(row)
        print(row, flush=True)
        content = json.dumps({**about, "rows": rows}, indent=1) + "\n"
        write_atomically(folder / "calibration_time.json", content.encode())


def seconds_per_call(device: str) -> float:
    """Time of one network call per sample, at 32 samples, on all cores: says how fast the machine is."""
    model = ls.load_model("garments", device=device)
    denoiser, noise = model.denoiser(range(32)), model.noise(range(32), 1.0)
    times = []
    with torch.inference_mode():
        for _ in range(5):
            begin = time.perf_counter()
            float(denoiser(noise, 1.0).sum())  # waits for the device
            times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2] / len(noise)


if __name__ == "__main__":
    main()
