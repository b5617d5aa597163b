"""Simulated roll-outs, on the errors of a real network; and what a store costs and survives.

    python -m benchmarks.rollouts

Every request draws one of the network's samples. A share of the new card's requests is measured: both arms' errors of
the same request are known then, unless a row says otherwise. The decisions are those of :mod:`longstride.rollout`, with
their default stages and tolerances. Seconds of an answer are drawn from one distribution for all arms.
"""

from __future__ import annotations

import argparse
import json
import logging
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

import longstride as ls
from benchmarks.rollout_kills import kill_at_random
from benchmarks.rollout_samples import Pool, draw_pool
from longstride.files import write_atomically
from longstride.journal import Journal
from longstride.rollout import STAGES, Arm, Counts, Plan, Rollout, Stage
from longstride.rollout.decisions import judge
from longstride.rollout.evidence import Answer, Evidence, Measured
from longstride.rollout.metrics import MUCH_WORSE
from longstride.rollout.records import Decision
from longstride.rollout.writing import Writing, make_tables

ROOT = Path(__file__).resolve().parent.parent
#: Share of the new card's requests that are measured, where a stage needs errors.
MEASURED = 0.2
#: Most requests by the new card in one simulation.
MOST = 20_000
Errors = Literal["same", "apart", "mixed"]
CANARY = (Stage(share=0.1, requests=10**9),)


class InMemory(Writing):
    """A store that keeps its evidence as objects: the decisions are the real ones, without the cost of a file."""

    def __init__(self, plan: Plan) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        make_tables(connection)
        super().__init__(connection)
        self._evidence, self._sums = Evidence(plan), dict[tuple[int, str], Counts]()
        self.last = self.decide(self.start(plan), "started", 0, "running", (), "", {}, "hand")

    def evidence(self, rollout: int, plan: Plan) -> Evidence:
        """The evidence so far."""
        return self._evidence

    def keep(self, *_: Any) -> None:
        """Nothing to write."""

    def add(self, rollout: int, stage: int, arm: str, counts: Counts) -> None:
        """Add to the counts of an arm."""
        self._sums[stage, arm] = self._sums.get((stage, arm), Counts()).plus(counts)

    def counts(self, rollout: int) -> dict[tuple[int, str], Counts]:
        """Counts by stage and arm."""
        return self._sums


def simulate(
    pool: Pool, new: str, stages: tuple[Stage, ...], seed: int, *, flags: bool, measured: float, errors: Errors = "same"
) -> tuple[Decision, int]:
    """One roll-out of the sampler ``new`` against the base.

    Args:
        pool: Answers of both.
        new: Name of the sampler.
        stages: Of the roll-out.
        seed: Of the traffic.
        flags: Whether a guard looks at the samples.
        measured: Share of the new card's requests whose errors are measured.
        errors: What the new card's error is compared with: ``"same"``, the base's of the same request; ``"apart"``, the
            base's of the request before, told as that; ``"mixed"``, the base's of another sample, told as if it were of
            the same request, as for a card that errs just as much but on other samples.

    Returns:
        The last decision, and the number of requests of all arms until then.
    """
    rng = np.random.default_rng(seed)
    cap = 8 * float(np.sqrt(np.mean(pool.errors["base"] ** 2)))
    plan = Plan(arms=[Arm(name="base"), Arm(name="new")], stages=list(stages), error_cap=cap)
    work, requests = InMemory(plan), 0
    samples = len(pool.errors["base"])

    def answer(sampler: str) -> tuple[int, Answer]:
        sample = int(rng.integers(samples))
        flagged = bool(pool.flags[sampler][sample]) if flags else None
        return sample, Answer(flagged, seconds=float(rng.lognormal(0, 0.2)))

    for _ in range(MOST):
        last = work.last
        share = stages[last.stage].share
        others = int(rng.geometric(share)) - 1
        requests += others + 1
        if others:  # only the latest of these is ever compared
            work.add(last.rollout, last.stage, "base", Counts(requests=others - 1))
            theirs, told = answer("base")
            judge(
                work,
                last,
                plan,
                "base",
                told,
                Measured(float(pool.errors["base"][theirs])) if errors == "apart" else None,
            )
        sample, told = answer(new)
        found = None
        if rng.random() < measured:
            other = sample if errors == "same" else int(rng.integers(samples))
            against = None if errors == "apart" else float(pool.errors["base"][other])
            found = Measured(float(pool.errors[new][sample]), against)
        work.last = judge(work, last, plan, "new", told, found) or last
        if work.last.status != "running":
            break
    return work.last, requests


def many(
    pool: Pool, new: str, stages: tuple[Stage, ...], runs: int, *, flags: bool, measured: float, errors: Errors = "same"
) -> dict[str, Any]:
    """How ``runs`` roll-outs end, and after how many requests."""
    ends = [simulate(pool, new, stages, seed, flags=flags, measured=measured, errors=errors) for seed in range(runs)]
    requests = [n for _, n in ends]
    reasons = [decision.reason.partition(":")[0] for decision, _ in ends if decision.status == "rolled back"]
    return {
        "new": new,
        "shares": [stage.share for stage in stages],
        "flags": flags,
        "measured": measured,
        "errors": errors,
        "runs": runs,
        **{status: sum(d.status == status for d, _ in ends) for status in ("running", "complete", "rolled back")},
        "requests": {key: int(np.quantile(requests, q)) for key, q in (("median", 0.5), ("q95", 0.95), ("most", 1))},
        "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }


def cost(requests: int) -> dict[str, float]:
    """Microseconds of a call of each kind, with a file."""
    with tempfile.TemporaryDirectory() as folder, Rollout.start(Path(folder) / "r.db", None, stages=CANARY) as rollout:
        calls: dict[str, Callable[[int], object]] = {
            "arm": rollout.arm,
            "record_base": lambda n: rollout.record(n, "base", seconds=0.1, flagged=False),
            "record_new": lambda n: rollout.record(n, "new", seconds=0.1, flagged=False),
            "measured": lambda n: rollout.measured(n, "new", 0.1, 0.1),
        }
        found = {name: list[float]() for name in calls}
        for n in range(requests):
            for name, call in calls.items():
                start = time.perf_counter()
                call(n)
                found[name].append(time.perf_counter() - start)
    return {f"{name}_us": round(float(np.median(times)) * 1e6, 1) for name, times in found.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="galaxy:hsc32", help="as in longstride calibrate (default: galaxy:hsc32)")
    parser.add_argument("--nfe", type=int, default=5, help="network calls (default: 5)")
    parser.add_argument("--samples", type=int, default=512, help="half of them is traffic (default: 512)")
    parser.add_argument("--runs", type=int, default=200, help="simulations of each kind (default: 200)")
    parser.add_argument("--kills", type=int, default=100, help="killed processes (default: 100)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "rollouts.json", help="results")
    args = parser.parse_args()
    logging.getLogger("longstride").setLevel(logging.ERROR)  # decisions are results here
    identity = {"model": args.model, "nfe": args.nfe, "samples": args.samples}
    kept = Journal(args.out.parent / "work" / "rollouts", identity)
    pool = Pool.of(kept("pool", lambda: draw_pool(ls.load_model(args.model), args.nfe, args.samples).arrays()))
    print(json.dumps(pool.about()), flush=True)
    rows = []
    kinds: tuple[tuple[str, tuple[Stage, ...], bool, float, Errors], ...] = (
        ("base", STAGES, True, MEASURED, "apart"),
        ("base", STAGES, True, MEASURED, "mixed"),
        ("better", STAGES, True, MEASURED, "same"),
        ("shuffled", CANARY, True, 0.0, "same"),
        ("shuffled", CANARY, False, MEASURED, "same"),
        ("subtle", CANARY, False, MEASURED, "same"),
        ("subtle", CANARY, False, 1.0, "same"),
    )
    for new, stages, flags, measured, errors in kinds:
        rows.append(many(pool, new, stages, args.runs, flags=flags, measured=measured, errors=errors))
        print(json.dumps(rows[-1]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kills = kill_at_random(Path(folder), args.kills)
    base = pool.errors["base"]
    results = {
        "model": args.model,
        "calls": args.nfe,
        "samplers": pool.about(),
        "mixed_much_worse": round(float(np.mean(base[:, None] > MUCH_WORSE * base[None, :])), 4),
        "rollouts": rows,
        "kills": kills,
        "cost": cost(300),
    }
    print(json.dumps({key: results[key] for key in ("kills", "cost")}))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
