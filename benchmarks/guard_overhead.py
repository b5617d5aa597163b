"""What the guard and the monitor add to sampling, re-runs of flagged samples aside.

    python -m benchmarks.guard_overhead

A plain run of a table, and :func:`longstride.sample_guarded` with a monitor and a guard that flags nothing. It records
and reads the statistics, scores and judges the samples. Both take turns, and the cost is the median over pairs of
neighbours. States of a latent model run with a network that returns one preallocated tensor, so that only sampling is
timed; the bundled model runs as it is.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

import longstride as ls
from benchmarks.overhead import ROOT, alternate, spread
from longstride.arrays import Array
from longstride.files import write_atomically
from longstride.guard import Guard, Recorder
from longstride.guard.clean import normal_of
from longstride.guard.normal import Normal
from longstride.guard.score import fit_guard

NFE = 8
#: Eight latents of a picture of 1,024 pixels.
LATENTS = (8, 4, 128, 128)
#: Pictures of the bundled model that are drawn together.
PICTURES = 16
#: Clean runs, as on a card.
CLEAN = 256


@dataclass(frozen=True)
class _Watched:
    """A table with the guard and the distribution of clean runs that a card would hold."""

    table: ls.SolverTable
    guard: Guard
    normal: Normal

    @property
    def base_table(self) -> ls.SolverTable:
        """A base with the first level of the table, so that its first output is kept."""
        return self.table

    @staticmethod
    def of(table: ls.SolverTable) -> _Watched:
        """Fit both on runs of the exact denoiser of standard normal data: what they cost depends on no data."""

        def exact(x: Tensor, sigma: float) -> Tensor:
            return x / (1 + sigma**2)

        generator = torch.Generator().manual_seed(0)
        noise = float(table.sigmas[0]) * torch.randn(CLEAN, 4, 8, 8, generator=generator)
        recorder = Recorder(table)
        ls.sample(exact, noise, table, callback=recorder)
        ratios: Array = np.random.default_rng(0).normal(size=CLEAN)
        guard = fit_guard(recorder.read(), ratios, 0.05)
        assert guard is not None
        return _Watched(table, replace(guard, threshold=1e9), normal_of(exact, noise, table))


def measure(what: str, denoiser: Any, noise: Tensor, watched: _Watched, seconds: float) -> dict[str, Any]:
    """Added microseconds per step, and the share that they add to the run."""
    table, monitor = watched.table, ls.Monitor(watched)

    def plain() -> Tensor:
        return ls.sample(denoiser, noise, table)

    def both() -> Tensor:
        found = ls.sample_guarded(denoiser, noise, watched, monitor=monitor)
        assert not found.flagged.any()
        return found.samples

    # One thread is timed by the processor's time, which does not pass while other processes run.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    watching, alone = alternate(both, plain, seconds, clock=clock)
    added = watching - alone
    return {
        "run": what,
        "shape": list(noise.shape),
        "calls": table.nfe,
        "pairs": len(added),
        **spread("plain_us", alone / table.nfe * 1e6, 1),
        **spread("added_us", added / table.nfe * 1e6, 1),
        **spread("added_share", added / alone, 4),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="time for each run (default: 20)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "guard_overhead.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = ls.load_model("garments")
    watched = _Watched.of(ls.build("unipc", ls.grid("log_snr", NFE, schedule=model.schedule), order=3))
    generator = torch.Generator().manual_seed(0)
    noise, output = (torch.randn(LATENTS, generator=generator) for _ in range(2))
    pictures = model.noise(range(PICTURES), float(watched.table.sigmas[0]))
    rows = [
        measure("latents, no network", lambda x, sigma: output, noise, watched, asked.seconds),
        measure("bundled model", model.denoiser(range(PICTURES)), pictures, watched, asked.seconds),
    ]
    results = {"torch": torch.__version__, "threads": asked.threads, "machine": platform.machine(), "rows": rows}
    write_atomically(asked.out, (json.dumps(results, indent=1) + "\n").encode())
    Console().print_json(data=results)


if __name__ == "__main__":
    main()
