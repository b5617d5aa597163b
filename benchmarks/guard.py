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
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

import longstride as ls
from benchmarks.guard_scores import compared
from benchmarks.guard_tails import far, tails
from longstride.arrays import Array
from longstride.calibration import Reference
from longstride.calibration.endpoint.settings import HELD_OUT, GaussNewtonSettings, fitted_samples
from longstride.calibration.reference.solve import solve_reference, squared_errors, start_of
from longstride.errors import unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import write_atomically
from longstride.guard import Recorder, sample_guarded
from longstride.guard.score import log_ratios
from longstride.journal import Journal, digest, table_digest
from longstride.network import in_batches

ROOT = Path(__file__).resolve().parent.parent
#: Samples that are kept together, and samples per network call: so many fit the cache.
BATCH, CALL = 64, 16
#: Declared share of further network calls.
SHARE = 0.05
#: Samples of a pool per sample of the calibration: the default.
MINED = GaussNewtonSettings().guard_mined
#: How tables are fitted: with a guard and hard samples, with a guard alone, or without a guard, to plain errors.
How = Literal["mined", "guarded", "plain"]
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
            small = in_batches(denoiser, CALL)
            return solve_reference(small, noise, self.ends, steps=STEPS, check_samples=0).samples

        return self.journal.tensor(f"{place}/target", solve, like=noise)

    def card(self, nfe: int, number: int, fitted: int, how: How) -> ls.Card:
        """The card of a calibration from a set of noise."""
        file = self.folder / "cards" / f"{nfe}-{number}-{fitted}-{how}.json"
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
            batch_size=CALL,
            universal=False,
            guard_share=0.0 if how == "plain" else SHARE,
            guard_mined=MINED if how == "mined" else 0.0,
            model=self.model.info(self.case.guidance),
            seed=number,
            journal=self.folder / "calibration" / file.stem,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        result.card.save(file)
        return result.card

    def seen(self, table: ls.SolverTable, purpose: Any, number: int, count: int) -> dict[str, Array]:
        """A run of a table on some samples: statistics, squared errors, and how far each output is from the ends."""
        found: list[dict[str, Array]] = []
        for place, denoiser, noise in self._parts(purpose, number, count):

            def run(
                place: str = place, denoiser: ls.Denoiser = denoiser, noise: torch.Tensor = noise
            ) -> dict[str, Array]:
                target, parts = self.target(place, denoiser, noise), list[dict[str, Array]]()
                for begin in range(0, len(noise), CALL):
                    part = slice(begin, begin + CALL)
                    recorder, outputs = Recorder(table), list[Array]()

                    def see(
                        k: int,
                        sigma: float,
                        x: torch.Tensor,
                        prediction: torch.Tensor,
                        recorder: Recorder = recorder,
                        outputs: list[Array] = outputs,
                        part: slice = part,
                    ) -> None:
                        recorder(k, sigma, x, prediction)
                        outputs.append(np.sqrt(squared_errors(prediction, target[part])))

                    end = ls.sample(denoiser.select(part), noise[part], table, callback=see)
                    own = {"statistics": recorder.read(), "squared": squared_errors(end, target[part])}
                    parts.append({**own, "away": np.stack(outputs, 1)})
                return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

            found.append(self.journal(f"{place}/run-{table_digest(table)[:20]}", run))
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def check(self, card: ls.Card, flagged: NDArray[np.bool_], guarded: Array) -> None:
        """Make sure, on a few samples, that the guarded sampler is what runs of both tables say.

        Raises:
            AssertionError: it is not.
        """
        place, denoiser, noise = next(self._parts("evaluation", 0, self.samples))
        drawn = sample_guarded(denoiser, noise, card)
        squared = squared_errors(drawn.samples, self.target(place, denoiser, noise))
        if drawn.flagged.tolist() != flagged[: len(noise)].tolist():
            raise AssertionError(f"sample_guarded flags {drawn.flagged.sum()} samples, the runs' scores others")
        np.testing.assert_allclose(squared, guarded[: len(noise)], rtol=1e-2, atol=1e-9)

    def record(self, nfe: int, number: int, fitted: int, how: How) -> dict[str, Any]:
        """A calibration, and how it fares on fresh samples."""
        card = self.card(nfe, number, fitted, how)
        after, before = (self.seen(one, "evaluation", 0, self.samples) for one in (card.table, card.base_table))
        guard, base, squared = card.guard, before["squared"], after["squared"]
        flagged: NDArray[np.bool_] = np.zeros(len(base), bool) if guard is None else guard.flags(after["statistics"])
        guarded = np.where(flagged, base, squared)
        look = nfe if guard is None else guard.calls or nfe
        self.check(card, flagged, guarded)
        record: dict[str, Any] = {
            "model": self.name,
            "nfe": nfe,
            "set": number,
            "fitted": fitted,
            "how": how,
            "held_out": HELD_OUT,
            "accepted": card.end.accepted,
            "reason": card.end.reason,
            "calibration_calls": card.calls,
            "samples": self.samples,
            "base": {"rmse": float(np.sqrt(base.mean())), "median": float(np.median(np.sqrt(base)))},
            "look": look,
            "flagged": float(flagged.mean()),
            "calls": nfe + (look - 1) * float(flagged.mean()),
            "claim": None,
            "unguarded": tails(squared, base),
            "guarded": tails(guarded, base),
            "far": far(after, before),
            "scores": self.scores(card, number, fitted + HELD_OUT, after, base) if card.end.accepted else None,
        }
        if card.end.accepted and (report := card.end.guard) is not None:
            holds = record["guarded"]["worse_2"] <= report.share
            record["claim"] = {"share": report.share, "samples": report.samples, "bad": report.bad, "holds": holds}
        return record

    def scores(
        self, card: ls.Card, number: int, count: int, fresh: Mapping[str, Array], base: Array
    ) -> dict[str, dict[str, float]]:
        """What other scores would be worth; see :mod:`benchmarks.guard_scores`."""
        after, before = (
            self.seen(one, "calibration", number, self.calibration) for one in (card.table, card.base_table)
        )
        ratios = log_ratios(after["squared"], before["squared"])[:count]
        return compared((after["statistics"][:count], ratios), fresh["statistics"], fresh["squared"], base)


def added(record: dict[str, Any], file: Path) -> None:
    """Write a row to the file of results, in place of an earlier row of the same calibration."""
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    keys = ("model", "nfe", "set", "fitted", "how")
    rows = [row for row in known if any(row[key] != record[key] for key in keys)]
    rows = sorted([*rows, record], key=lambda row: [row[key] for key in keys])
    write_atomically(file, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
    print(json.dumps(record), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["ztf32"], help=", ".join(CASES))
    parser.add_argument("--nfe", type=int, nargs="+", help="network calls; default: the network's")
    parser.add_argument("--sets", type=int, default=4, help="sets of calibration noise")
    parser.add_argument("--fitted", type=int, nargs="+", help="fitted samples; default: 48 and the default's")
    parser.add_argument(
        "--how",
        choices=get_args(How),
        default="mined",
        help="with hard samples (default); without; or without a guard, and so with fits of plain errors",
    )
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
                    added(bench.record(nfe, number, fitted, asked.how), file)


if __name__ == "__main__":
    main()
