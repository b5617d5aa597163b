"""The sampler's own cost per step, everything but the network, against diffusers' ``DPMSolverMultistepScheduler.step``.

Both sides get the same levels, the same noise and a network that returns one preallocated tensor, so only sampling is
timed. Whole runs of the two alternate, and the ratio is the median over pairs of neighbours: a load that slows both
cancels. What could be counted either way favours diffusers: its network predicts the clean sample, which is the
prediction that its step need not convert, and its levels are set and its first index is found before the clock starts.
It always runs its default second order, which is our dpmpp_2m; our other solvers sum fewer terms (ddim) or more.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import longstride as ls
from longstride.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((1, 4, 64, 64), (16, 4, 64, 64))
SOLVERS: dict[str, dict[str, Any]] = {"ddim": {}, "dpmpp_2m": {}, "unipc": {"order": 3}, "ipndm": {}}
WARM_UP = 3
FEWEST_PAIRS = 20

Run = Callable[[], Tensor]


class Diffusers:
    """``DPMSolverMultistepScheduler`` as pipelines run it: second order, in inference mode."""

    def __init__(self, noise: Tensor, output: Tensor, steps: int) -> None:
        self.scheduler = DPMSolverMultistepScheduler(prediction_type="sample")
        self.noise, self.output, self.steps = noise, output, steps
        self.reset()
        ratios = self.scheduler.sigmas.double().numpy()
        self.alphas = 1 / np.sqrt(1 + ratios**2)
        self.sigmas = ratios * self.alphas

    def reset(self) -> None:
        """Make the scheduler ready for another run; not timed."""
        self.scheduler.set_timesteps(self.steps)
        self.scheduler.set_begin_index(0)
        self.timesteps = list(self.scheduler.timesteps)

    @torch.inference_mode()
    def run(self) -> Tensor:
        """All steps."""
        x = self.noise
        for t in self.timesteps:
            x = self.scheduler.step(self.output, t, x, return_dict=False)[0]
        return x


def alternate(
    ours: Run,
    theirs: Run,
    seconds: float,
    *,
    reset: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of every run of the two sides, which take turns at going first.

    Args:
        ours: A run of the first side.
        theirs: A run of the second side.
        seconds: How long runs are repeated, at least.
        reset: Called before every pair; not timed.
        clock: Tells the time.
    """

    def seconds_of(run: Run) -> float:
        start = clock()
        run()
        return clock() - start

    pairs: list[tuple[float, float]] = []
    deadline = time.perf_counter() + seconds
    while len(pairs) < FEWEST_PAIRS + WARM_UP or time.perf_counter() < deadline:
        reset()
        if len(pairs) % 2:
            mine = seconds_of(ours)
            pairs.append((mine, seconds_of(theirs)))
        else:
            other = seconds_of(theirs)
            pairs.append((seconds_of(ours), other))
    first, second = np.array(pairs[WARM_UP:]).T
    return first, second


def spread(key: str, values: np.ndarray, digits: int) -> dict[str, Any]:
    """Median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).round(digits).tolist()
    return {key: median, f"{key}_quartiles": [low, high]}


def measure(name: str, shape: tuple[int, ...], steps: int, seconds: float) -> dict[str, Any]:
    """One solver at one size; times are microseconds per step."""
    generator = torch.Generator().manual_seed(0)
    noise, output = (torch.randn(shape, generator=generator) for _ in range(2))
    theirs = Diffusers(noise, output, steps)
    table = ls.build(name, theirs.sigmas, alphas=theirs.alphas, **SOLVERS[name])

    def ours() -> Tensor:
        return ls.sample(lambda x, sigma: output, noise, table)

    # All of these are exact for a network that always answers the same: both sides must arrive there.
    for result in (ours(), theirs.run()):
        torch.testing.assert_close(result, output, rtol=1e-4, atol=1e-4)
    mine, other = alternate(ours, theirs.run, seconds, reset=theirs.reset)
    return {
        "solver": name,
        "options": SOLVERS[name],
        "shape": list(shape),
        "calls": table.nfe,
        "pairs": len(mine),
        **spread("ours_us", mine / table.nfe * 1e6, 1),
        **spread("diffusers_us", other / steps * 1e6, 1),
        **spread("ratio", (mine / table.nfe) / (other / steps), 3),
    }


def rendered(results: dict[str, Any]) -> Table:
    """The results for the terminal."""
    view = Table(
        title="Cost per step without the network, µs: median (quartiles)",
        caption=f"float32, {results['steps']} steps, torch threads: {results['threads']}",
        box=box.SIMPLE_HEAD,
    )
    view.add_column("solver")
    for column in ("state", "ours", "diffusers", "ratio"):
        view.add_column(column, justify="right")
    for row in results["rows"]:
        cells = []
        for key, digits in (("ours_us", 0), ("diffusers_us", 0), ("ratio", 2)):
            low, high = row[f"{key}_quartiles"]
            cells.append(f"{row[key]:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})")
        view.add_row(row["solver"], "×".join(map(str, row["shape"])), *cells)
    return view


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example:\n  python -m benchmarks.overhead --seconds 2 --solvers dpmpp_2m --out /tmp/overhead.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), help="default: all of them")
    parser.add_argument("--steps", type=int, default=20, help="network calls per run (default: 20)")
    parser.add_argument("--seconds", type=float, default=4, help="time for each solver and size (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "overhead.json",
        help="results file (default: benchmarks/results/overhead.json)",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": args.threads,
        "steps": args.steps,
        "dtype": "float32",
        "rows": [measure(name, shape, args.steps, args.seconds) for name in args.solvers for shape in SHAPES],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, (json.dumps(results, indent=1) + "\n").encode())
    Console().print(rendered(results))


if __name__ == "__main__":
    main()
