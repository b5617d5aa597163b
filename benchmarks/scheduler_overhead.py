"""Cost of one ``step`` of our diffusers scheduler, against diffusers' own multistep schedulers.

Each side is driven as a pipeline drives it: ``step`` with a preallocated network output (noise prediction), in
inference mode, with the first index told. Whole runs of all contestants take turns, and a ratio is the median over
rounds to the cheapest of diffusers' three, so that a load that slows all cancels. One thread is timed by the
processor's time, which does not pass while other processes run. ``set_timesteps`` is timed apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.overhead import ROOT, spread
from longstride.files import write_atomically
from longstride.integrations.diffusers import LongstrideScheduler

SHAPES = ((1, 4, 128, 128), (8, 16, 128, 128))
DTYPES = (torch.float32, torch.bfloat16)
THEIRS = {
    "DPMSolverMultistep": diffusers.DPMSolverMultistepScheduler,
    "UniPCMultistep": diffusers.UniPCMultistepScheduler,
    "DEISMultistep": diffusers.DEISMultistepScheduler,
}
OURS = ("ddim", "dpmpp_2m", "unipc", "deis", "ipndm")
WARM_UP = 3
FEWEST_ROUNDS = 15


@torch.inference_mode()
def seconds_of(scheduler: Any, noise: Tensor, output: Tensor, steps: int) -> tuple[float, float]:
    """Seconds of ``set_timesteps``, and of all steps of a run."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    times, x = list(scheduler.timesteps), noise
    middle = clock()
    for t in times:
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return middle - begin, clock() - middle


def measure(shape: tuple[int, ...], dtype: torch.dtype, steps: int, seconds: float) -> list[dict[str, Any]]:
    """All contestants at one size; microseconds per step."""
    generator = torch.Generator().manual_seed(0)
    noise, output = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    contestants: dict[str, Any] = {name: kind() for name, kind in THEIRS.items()}
    contestants |= {name: LongstrideScheduler(solver=name) for name in OURS}
    rounds: list[list[tuple[float, float]]] = []
    deadline = time.perf_counter() + seconds
    while len(rounds) < FEWEST_ROUNDS + WARM_UP or time.perf_counter() < deadline:
        order = list(contestants) if len(rounds) % 2 else list(reversed(contestants))
        found = {name: seconds_of(contestants[name], noise, output, steps) for name in order}
        rounds.append([found[name] for name in contestants])
    times = np.array(rounds[WARM_UP:]) * 1e6
    times[:, :, 1] /= steps
    names = list(contestants)
    cheapest = min(THEIRS, key=lambda name: float(np.median(times[:, names.index(name), 1])))
    beside = times[:, names.index(cheapest), 1]
    return [
        {
            "scheduler": name,
            "ours": name in OURS,
            "shape": list(shape),
            "dtype": str(dtype).removeprefix("torch."),
            "cheapest": cheapest,
            **spread("step_us", times[:, n, 1], 1),
            **spread("ratio", times[:, n, 1] / beside, 3),
            **spread("set_timesteps_us", times[:, n, 0], 0),
        }
        for n, name in enumerate(names)
    ]


def rendered(results: dict[str, Any]) -> Table:
    """The results for the terminal."""
    view = Table(title="Cost of a scheduler's step: median (quartiles)", box=box.SIMPLE_HEAD)
    for column in ("scheduler", "latents", "dtype", "step, µs", "over diffusers' cheapest", "set_timesteps, µs"):
        view.add_column(column, justify="left" if column == "scheduler" else "right")
    for row in results["rows"]:
        low, high = row["ratio_quartiles"]
        name = f"[bold]{row['scheduler']}[/bold]" if row["ours"] else row["scheduler"]
        ratio = f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"
        shape = "×".join(map(str, row["shape"]))
        view.add_row(name, shape, row["dtype"], f"{row['step_us']:.0f}", ratio, f"{row['set_timesteps_us']:.0f}")
    return view


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example:\n  python -m benchmarks.scheduler_overhead --seconds 2 --out /tmp/scheduler.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=20, help="network calls per run (default: 20)")
    parser.add_argument("--seconds", type=float, default=8, help="time for each size and dtype (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scheduler_overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        row
        for shape, dtype in itertools.product(SHAPES, DTYPES)
        for row in measure(shape, dtype, options.steps, options.seconds)
    ]
    about = {"torch": torch.__version__, "diffusers": diffusers.__version__, "machine": platform.machine()}
    results = {"steps": options.steps, "threads": options.threads, **about, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())
    Console().print(rendered(results))


if __name__ == "__main__":
    main()
