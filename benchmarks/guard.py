"""What the guard is worth: fresh samples with the base, with the calibrated table alone, and with its guard.

    python -m benchmarks.guard --model ztf32 --nfe 5 8
    python -m benchmarks.guard --model hsc32 garments --sets 1

Every network is calibrated from several sets of noise, on 48 fitted and 48 held-out samples and on the default's. All
are measured on the same fresh noise. ``ztf32`` is measured between the levels 148 and .0316, where its errors have
heavy tails. Finished parts are kept in ``work``: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import longstride as ls
from benchmarks.guard_scores import compared
from longstride.arrays import Array
from longstride.calibration import Reference
from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
from longstride.calibration.reference.solve import solve_reference, squared_errors, start_of
from longstride.errors import unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import write_atomically
from longstride.guard import Recorder, sample_guarded
from longstride.guard.score import log_ratios
from longstride.journal import Journal, digest, table_digest

ROOT = Path(__file__).resolve().parent.parent
#: Samples per network call; fresh samples that are compared at most at a time.
BATCH = 64
#: Declared share of samples that are made again.
SHARE = 0.03
#: Steps of the converged solution.
STEPS = 64


@dataclass(frozen=True)
class GuardCase:
    """A network of the benchmark: its model, guidance and default network calls."""

    source: str
    nfes: tuple[int, ...]
    guidance: float | None = None
    t_min: float | None = None

    def load(self) -> ls.Model:
        """The model; with ``t_min`` the levels of its schedule reach lower."""
        model = ls.load_model(self.source)
        return model if self.t_min is None else replace(model, schedule=replace(model.schedule, t_min=self.t_min))  # type: ignore[type-var]


CASES = {
    "ztf32": GuardCase("galaxy:ztf32", (5, 8), t_min=1e-3),
    "hsc32": GuardCase("galaxy:hsc32", (5, 8)),
    "garments": GuardCase("garments", (6,)),
    "garments_guided": GuardCase("garments", (6,), guidance=3.0),
    "garments_flow": GuardCase("garments_flow", (6,)),
}


class GuardBench:
    """Calibrates and measures on one network, with every finished part in a journal.

    Args:
        name: Of :data:`CASES`.
        samples: Fresh samples.
        folder: Of finished parts.
    """

    def __init__(self, name: str, samples: int, folder: Path) -> None:
        self.name, self.case, self.samples = name, CASES[name], samples
        self.model, self.folder = self.case.load(), folder / f"guard_{name}"
        about = {"model": self.model.fingerprint, "schedule": digest(repr(self.model.schedule)), "samples": samples}
        self.journal = Journal(self.folder, {**about, "guidance": self.case.guidance})
        self.calibration = max(fitted_samples(n) for n in self.case.nfes) + HELD_OUT
        self.ends = base_table(self.model.schedule, "ddim", self.case.nfes[0])

    def _parts(self, purpose: Any, number: int, count: int) -> Iterator[tuple[str, ls.Denoiser, torch.Tensor]]:
        seeds = seed_range(purpose, number, count)
        for begin in range(0, count, BATCH):
            part = seeds[begin : begin + BATCH]
            yield f"{purpose}-{number}/{begin}", self.model.denoiser(part, self.case.guidance), self._noise(part)

    def _noise(self, seeds: range) -> torch.Tensor:
        return self.model.noise(seeds, float(self.ends.sigmas[0]))

    def target(self, place: str, denoiser: ls.Denoiser, noise: torch.Tensor) -> torch.Tensor:
        """Converged samples of a batch."""

        def solve() -> torch.Tensor:
            return solve_reference(denoiser, noise, self.ends, steps=STEPS, check_samples=0).samples

        return self.journal.tensor(f"{place}/target", solve, like=noise)

    def card(self, nfe: int, number: int, fitted: int) -> ls.Card:
        """The card of a calibration from a set of noise."""
        file = self.folder / "cards" / f"{nfe}-{number}-{fitted}.json"
        if file.exists():
            return ls.load_card(file)
        count = fitted + HELD_OUT
        target = torch.cat([self.target(*part) for part in self._parts("calibration", number, self.calibration)])
        seeds = seed_range("calibration", number, count)
        noise, table = self._noise(seeds), base_table(self.model.schedule, "ddim", nfe)
        result = ls.calibrate(
            self.model.denoiser(seeds, self.case.guidance),
            noise,
            table,
            held_out=HELD_OUT,
            reference=Reference(target[:count], float("nan"), STEPS, start_of(noise, table)),
            batch_size=BATCH,
            guard_share=SHARE,
            model=self.model.info(self.case.guidance),
            seed=number,
            journal=self.folder / "calibration" / file.stem,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        result.card.save(file)
        return result.card

    def squared(self, card: ls.Card) -> dict[str, Array]:
        """Squared errors of fresh samples with the base, the table alone and the guard, and which were flagged."""
        found: list[dict[str, Array]] = []
        for place, denoiser, noise in self._parts("evaluation", 0, self.samples):

            def measure(
                place: str = place, denoiser: ls.Denoiser = denoiser, noise: torch.Tensor = noise
            ) -> dict[str, Array]:
                target = self.target(place, denoiser, noise)
                guarded = sample_guarded(denoiser, noise, card)
                drawn = {
                    "base": ls.sample(denoiser, noise, card.base_table),
                    "unguarded": ls.sample(denoiser, noise, card.table),
                    "guarded": guarded.samples,
                }
                flags = {"flagged": guarded.flagged.double().numpy()}
                return {**flags, **{name: squared_errors(one, target) for name, one in drawn.items()}}

            own = digest(table_digest(card.table), table_digest(card.base_table), repr(card.guard))[:20]
            found.append(self.journal(f"{place}/{own}", measure))
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def scores(self, card: ls.Card, number: int, count: int, squared: Mapping[str, Array]) -> dict[str, Any]:
        """What other scores would be worth; see :mod:`benchmarks.guard_scores`."""

        def told(purpose: str, seeds: int, many: int) -> tuple[Array, Array]:
            parts = []
            for place, denoiser, noise in self._parts(purpose, seeds, many):

                def measure(
                    place: str = place, denoiser: ls.Denoiser = denoiser, noise: torch.Tensor = noise
                ) -> dict[str, Array]:
                    recorder, target = Recorder(card.table), self.target(place, denoiser, noise)
                    after = squared_errors(ls.sample(denoiser, noise, card.table, callback=recorder), target)
                    before = squared_errors(ls.sample(denoiser, noise, card.base_table), target)
                    return {"statistics": recorder.read(), "ratios": log_ratios(after, before)}

                name = f"{place}/scores-{digest(table_digest(card.table), table_digest(card.base_table))[:20]}"
                parts.append(self.journal(name, measure))
            return np.concatenate([p["statistics"] for p in parts]), np.concatenate([p["ratios"] for p in parts])

        statistics, ratios = told("calibration", number, self.calibration)
        fresh, _ = told("evaluation", 0, self.samples)
        return compared((statistics[:count], ratios[:count]), fresh, squared["unguarded"], squared["base"])

    def record(self, nfe: int, number: int, fitted: int) -> dict[str, Any]:
        """A calibration, and how it fares on fresh samples."""
        card = self.card(nfe, number, fitted)
        squared = self.squared(card)
        base, flagged = squared["base"], float(squared["flagged"].mean())
        record: dict[str, Any] = {
            "model": self.name,
            "nfe": nfe,
            "set": number,
            "fitted": fitted,
            "held_out": HELD_OUT,
            "accepted": card.end.accepted,
            "reason": card.end.reason,
            "calibration_calls": card.calls,
            "samples": self.samples,
            "base": {"rmse": float(np.sqrt(base.mean())), "median": float(np.median(np.sqrt(base)))},
            "flagged": flagged,
            "calls": nfe * (1 + flagged),
            "claim": None,
            "scores": None if not card.end.accepted else self.scores(card, number, fitted + HELD_OUT, squared),
        }
        for name in ("unguarded", "guarded"):
            record[name] = tails(squared[name], base)
        if card.end.accepted and (report := card.end.guard) is not None:
            holds = record["guarded"]["worse_2"] <= report.share
            record["claim"] = {"share": report.share, "samples": report.samples, "bad": report.bad, "holds": holds}
        return record


def tails(squared: Array, base: Array) -> dict[str, float]:
    """Errors over the base's, and how many samples are how much farther off than with the base."""
    found = {
        "rmse": float(np.sqrt(squared.mean() / base.mean())),
        "median": float(np.median(np.sqrt(squared)) / np.median(np.sqrt(base))),
        "largest": float(np.sqrt(squared.max())),
    }
    shares = {"worse": 1.0, "worse_2": 2.0, "worse_4": 4.0}
    return found | {name: float((squared > factor**2 * base).mean()) for name, factor in shares.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["ztf32"], help=", ".join(CASES))
    parser.add_argument("--nfe", type=int, nargs="+", help="network calls; default: the network's")
    parser.add_argument("--sets", type=int, default=4, help="sets of calibration noise")
    parser.add_argument("--fitted", type=int, nargs="+", help="fitted samples; default: 48 and the default's")
    parser.add_argument("--samples", type=int, default=2048, help="fresh samples")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    file = asked.out / "guard.json"
    for name in asked.model:
        if name not in CASES:
            raise unknown("model", name, CASES)
        bench = GuardBench(name, asked.samples, asked.out / "work")
        for nfe in asked.nfe or bench.case.nfes:
            for fitted in asked.fitted or dict.fromkeys((48, fitted_samples(nfe))):
                for number in range(asked.sets):
                    record = bench.record(nfe, number, fitted)
                    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
                    keys = ("model", "nfe", "set", "fitted", "samples")
                    rows = [row for row in known if any(row[key] != record[key] for key in keys)]
                    rows = sorted([*rows, record], key=lambda row: [row[key] for key in keys])
                    write_atomically(file, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
                    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
