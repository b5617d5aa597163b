"""How far reference solutions are from convergence, by their levels, their order and their number of steps.

    python -m benchmarks.reference_levels

Reference solutions run as in use, with UniPC of another order, and on the levels of fine solutions between two states,
from the same noise. The solution of :data:`FINE` steps counts as converged. Exact denoisers of mixtures run as networks
of EDM from ``sigma = 80``, as latent diffusion from ``sigma / alpha = 14.6`` standard deviations, and as flows from
``alpha = 0``; networks that were trained run in their own process. The networks that others trained lie in the folder
``zoo`` of the checkout; without it they are left out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.markdown import markdown_table
from benchmarks.networks.members import MEMBERS
from benchmarks.networks.solved import NEAR
from longstride.calibration.reference.solve import ORDER, converged_nodes, refine
from longstride.errors import InputError
from longstride.families import Family, alpha_of_ratio, alpha_of_sigma
from longstride.files import write_atomically
from longstride.network import in_batches
from longstride.nodes import Nodes
from longstride.sampler import DenoiserLike, sample
from longstride.solvers import build
from longstride.solvers.unipc import unipc

__all__ = ["levels_table"]

ROOT = Path(__file__).resolve().parent.parent
#: Exact denoisers, and trained networks with the family of their process.
EXACT = ("small_digits", "flower", "china", "wine", "wine@3", "brown")
TRAINED: dict[str, Family] = {"hsc32": "ve", "ztf32": "ve", "digits": "ve", "digits@7.5": "ve", "garments_flow": "flow"}
STEPS, FINE, SAMPLES, SEED = (24, 32, 48, 64), 512, 16, 10**6
#: The other order of UniPC.
OTHER = 2
#: Least ``sigma / alpha`` by process; the last step goes to 0.
FLOORS = {"edm": 2e-3, "latents": 0.015, "flow": 1e-3}
#: Standard deviation of the data.
STD = 0.5

SHARE = "share of the cube root"
#: What the levels of :func:`refine` are even in, by the family of the process.
EVEN: dict[Family, str] = {"ve": "sigma^(1/7)", "vp": "arcsin(sigma)", "flow": "sigma"}


def named(spacing: str, order: int) -> str:
    """Name of levels and of a solver's order."""
    return f"even in {spacing}, order {order}" if spacing != SHARE else f"{SHARE}, order {order}"


def in_family(denoiser: DenoiserLike, family: Family) -> DenoiserLike:
    """A denoiser of ``x_0 + sigma eps`` as that of another family's states; alpha 0 counts as a ratio of 1e5."""

    def scaled(x: torch.Tensor, sigma: float) -> torch.Tensor:
        alpha = max(float(alpha_of_sigma(family, sigma)), 1e-5)
        return denoiser(x / alpha, sigma / alpha)

    return denoiser if family == "ve" else scaled


def measured(name: str, process: str, family: Family, wrapped: bool) -> dict[str, Any]:
    """Root-mean-square errors of one network in one process, by spacing and number of steps."""
    member = MEMBERS[name]
    model, seeds = member.load(), range(SEED, SEED + SAMPLES)
    denoiser: DenoiserLike = in_batches(model.denoiser(seeds, member.guidance), SAMPLES)
    denoiser = in_family(denoiser, family) if wrapped else denoiser
    high = {"edm": 80.0, "latents": NEAR * STD, "flow": math.inf}[process]
    first = 1.0 if math.isinf(high) else high * float(alpha_of_ratio(family, high))
    floor = FLOORS[process] * float(alpha_of_ratio(family, FLOORS[process]))
    ends = np.array([first, floor, 0.0])
    table = build("ddim", ends, alphas=alpha_of_sigma(family, ends))
    noise = model.noise(seeds, 1.0) * first

    converged = sample(denoiser, noise, unipc(converged_nodes(table, FINE, floor), order=ORDER))

    def errors(nodes: Callable[[int], Nodes], order: int) -> dict[str, float]:
        ends = {steps: sample(denoiser, noise, unipc(nodes(steps), order=order)) for steps in STEPS}
        return {str(steps): float((end - converged).square().mean().sqrt()) for steps, end in ends.items()}

    found = {
        named(SHARE, order): errors(lambda steps: converged_nodes(table, steps, floor), order)
        for order in (ORDER, OTHER)
    }
    found[named(EVEN[family], ORDER)] = errors(lambda steps: refine(table, 0, table.nfe, steps, floor), ORDER)
    return {"network": name, "process": process, "family": family, "errors": found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    processes: tuple[tuple[str, Family], ...] = (("edm", "ve"), ("latents", "vp"), ("flow", "flow"))
    cases = [(name, *one, True) for one in processes for name in EXACT]
    cases += [(name, "flow" if family == "flow" else "edm", family, False) for name, family in TRAINED.items()]
    rows = list[dict[str, Any]]()
    for case in cases:
        try:
            rows.append(measured(*case))
        except InputError as error:  # weights that are not there
            print(f"{case[0]}: left out: {error}", flush=True)
            continue
        print(json.dumps(rows[-1]), flush=True)
    write_atomically(asked.out / "reference_levels.json", (json.dumps({"rows": rows}, indent=1) + "\n").encode())


def levels_table(file: Path) -> str:
    """Errors by process and number of steps: geometric mean over networks, and in brackets the worst."""
    results, rows = json.loads(file.read_text(encoding="utf-8")), list[list[object]]()
    for process, told in (("edm", "EDM, from 80"), ("latents", "latent diffusion"), ("flow", "flow, from alpha 0")):
        own = [row["errors"] for row in results["rows"] if row["process"] == process]
        for name in own[0] if own else ():
            errors = [[one[name][str(steps)] for one in own] for steps in STEPS]
            shown = [f"{math.exp(np.mean(np.log(every))):.2g} ({max(every):.2g})" for every in errors]
            rows.append([told, f"**{name}**" if name == named(SHARE, ORDER) else name, *shown, len(own)])
    return markdown_table(
        ["process", "levels and order of UniPC", *(f"{steps} steps" for steps in STEPS), "networks"], rows
    )


if __name__ == "__main__":
    main()
