"""Calibrations that are likely to go wrong, with a guard: does a claim ever fail more often than its confidence says?

    python -m benchmarks.adversarial --count 200

Every calibration draws a network of its own, an exact denoiser of a random mixture in a few dimensions, and is made
difficult in one of four ways:

==========  ============================================================================================
few         4 to 32 samples, fitted and held out
guided      guidance scales up to 30
beyond      the network knows levels from .05 to 10, and is run from 80 to .002
heavy       some samples in a hundred meet a jump of the network's output between two levels
==========  ============================================================================================

Fresh noise then tells how many samples of the guarded sampler are more than twice as far off as with the base. A card
claims an upper bound of this share, with 95 % confidence.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import binom
from torch import Tensor

import longstride as ls
from benchmarks.overhead import ROOT
from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.errors import LongstrideError
from longstride.files import write_atomically

KINDS = ("few", "guided", "beyond", "heavy")
#: Fresh samples.
FRESH = 2048
STEPS = 32


@dataclass(frozen=True)
class Mixture:
    """The exact denoiser of a mixture of Gaussians, with what makes it difficult.

    Attributes:
        means: Means ``(M, n)``.
        std: Standard deviation of every component.
        guidance: Scale of guidance towards the first component; None: none.
        known: Least and greatest level that the network knows; others are taken for the nearest of them.
        jump: Between the levels .4 and 1.2, samples whose implied first noise has a first entry above this number see
            other outputs; infinite: none.
        start: First level.
    """

    means: Tensor
    std: float
    guidance: float | None = None
    known: tuple[float, float] = (0.0, np.inf)
    jump: float = np.inf
    start: float = 10.0

    def denoiser(self, noise: Tensor) -> ls.Denoiser:
        """The network, bound to samples."""
        odd = noise[:, 0] / self.start > self.jump

        def model(x: Tensor, t: Tensor, odd: Tensor) -> Tensor:
            sigma = float(np.clip(float(t[0]), *self.known))
            every = self._clean(x, sigma, self.means)
            if self.guidance is not None:
                every = every + self.guidance * (self._clean(x, sigma, self.means[:1]) - every)
            return torch.where(odd[:, None], every + 2.0, every) if 0.4 < sigma < 1.2 else every

        return ls.as_denoiser(model, ls.Schedule.edm(1e-3, 100.0), "data", condition={"odd": odd})

    def _clean(self, x: Tensor, sigma: float, means: Tensor) -> Tensor:
        variance = self.std**2 + sigma**2
        weight = torch.softmax(-0.5 * torch.cdist(x, means.to(x)) ** 2 / variance, 1)
        return (x * self.std**2 + weight @ means.to(x) * sigma**2) / variance


def drawn(kind: str, seed: int) -> tuple[Mixture, ls.SolverTable, Tensor, int]:
    """A network, the table that gives calls and levels, noise and the number of held-out samples."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    size, modes = int(rng.integers(2, 17)), int(rng.integers(2, 7))
    means = torch.tensor(rng.normal(size=(modes, size)) * rng.uniform(0.3, 1.5), dtype=torch.float32)
    network = Mixture(
        means,
        float(rng.uniform(0.05, 0.5)),
        guidance=float(rng.uniform(4, 30)) if kind == "guided" else None,
        known=(0.05, 10.0) if kind == "beyond" else (0.0, np.inf),
        jump=float(rng.uniform(1.6, 2.4)) if kind == "heavy" else np.inf,
        start=80.0 if kind == "beyond" else 10.0,
    )
    levels = ls.grid(
        "karras", int(rng.integers(3, 8)), sigma_min=0.002 if kind == "beyond" else 0.05, sigma_max=network.start
    )
    count = int(rng.integers(4, 33)) if kind == "few" else int(rng.integers(24, 65))
    return network, ls.build("ddim", levels), noise_of(network, size, count, seed), max(1, count // 2)


def noise_of(network: Mixture, size: int, count: int, seed: int) -> Tensor:
    """First states."""
    return network.start * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def tried(kind: str, seed: int) -> dict[str, Any]:
    """One calibration, and what fresh noise says of it."""
    network, table, noise, held_out = drawn(kind, seed)
    asked: dict[str, Any] = {
        "reference_steps": STEPS,
        "scouts": 2,
        "scout_samples": 16,
        "iterations": 3,
        "guard_share": 0.05,
        "monitor": 0,
    }
    try:
        card = ls.calibrate(network.denoiser(noise), noise, table, held_out=held_out, **asked).card
    except LongstrideError as error:
        return {"kind": kind, "seed": seed, "end": "error", "reason": str(error)}
    if not card.end.accepted:
        return {"kind": kind, "seed": seed, "end": "refused", "reason": card.end.reason}
    fresh = noise_of(network, noise.shape[1], FRESH, 10**6 + seed)
    denoiser = network.denoiser(fresh)
    target = solve_reference(denoiser, fresh, card.base_table, steps=STEPS, check_samples=0).samples
    found = ls.sample_guarded(denoiser, fresh, card)
    guarded = squared_errors(found.samples, target)
    base = squared_errors(ls.sample(denoiser, fresh, card.base_table), target)
    claim = card.end.guard
    share = float((guarded > 4 * base).mean())
    return {
        "kind": kind,
        "seed": seed,
        "end": "accepted",
        "samples": len(noise),
        "rmse": float(np.sqrt(guarded.mean() / base.mean())),
        "calls": found.calls / table.nfe,
        "worse_2": share,
        "claim": None if claim is None else claim.share,
        "fails": claim is not None and share > claim.share,
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of every kind, and of all."""
    found = []
    for kind in (*KINDS, "all"):
        mine = [row for row in rows if kind in (row["kind"], "all")]
        accepted = [row for row in mine if row["end"] == "accepted"]
        claims = [row for row in accepted if row["claim"] is not None]
        fails = sum(row["fails"] for row in claims)
        found.append(
            {
                "kind": kind,
                "calibrations": len(mine),
                "errors": sum(row["end"] == "error" for row in mine),
                "accepted": len(accepted),
                "claims": len(claims),
                "claims_that_fail": fails,
                # The chance of as many failures, if each claim fails once in twenty.
                "chance": float(binom.sf(fails - 1, len(claims), 0.05)) if claims else None,
                "worse_than_base": sum(row["rmse"] > 1 for row in accepted),
                "largest_rmse": max((row["rmse"] for row in accepted), default=None),
            }
        )
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="calibrations (default: 200)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "adversarial.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if asked.out.exists():
        rows = json.loads(asked.out.read_text(encoding="utf-8"))["rows"]
    known = {(row["kind"], row["seed"]) for row in rows}
    for number in range(asked.count):
        kind, seed = KINDS[number % len(KINDS)], number // len(KINDS)
        if (kind, seed) in known:
            continue
        begin = time.perf_counter()
        rows.append(tried(kind, seed))
        write_atomically(asked.out, (json.dumps({"summary": summary(rows), "rows": rows}, indent=1) + "\n").encode())
        print(f"{number + 1}/{asked.count} {time.perf_counter() - begin:.1f} s {rows[-1]}", flush=True)
    Console().print_json(data=summary(rows))


if __name__ == "__main__":
    main()
