"""Whether online adaptation follows a network that is fine-tuned under it, and what hostile traffic can do to it.

    python -m benchmarks.adaptation

**The stream.** Requests of one sample arrive, one by one, and each has a live reference. Every weight matrix of the
network gets a random change of low rank that grows in steps. A proposal enters a roll-out, whose stages decide, and is
adopted or dropped as that ends. After every few requests the base, the card as it was and the adapted card are measured
on fresh noise.

**Hostile traffic.** The network stays, and requests are made to lead the card astray.

A step or a kind of traffic that has ended is not made again after a kill.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import longstride as ls
from benchmarks.adaptation_traffic import TRAFFIC, Request, hostile
from benchmarks.recalibration import RANK, ROOT, Fresh, calibrated, changed, measured
from longstride.adaptation import AdaptationSettings
from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import write_atomically
from longstride.rollout import Stage

__all__ = ["STAGES", "Service", "follow", "main"]

#: Sizes of the changes, and requests at each; requests between two measurements; requests of hostile traffic.
SIZES, REQUESTS, EVERY, HOSTILE = (0.0, 0.01, 0.03, 0.1, 0.2), 96, 48, 32
#: Fresh samples; requests whose converged solutions are computed together.
FRESH, TOGETHER = 96, 16
#: Of the roll-out of a proposal.
STAGES = (
    Stage(share=0.5, requests=6, measured=6, at_most={"error": 1.5}),
    Stage(share=1.0, requests=8, measured=14, at_most={"error": 1.1}),
)


class Service:
    """A service without any web: requests are answered by the arm that a roll-out names, and all are measured.

    Args:
        folder: Where the stores and cards are; a folder that holds them goes on from them.
        card: The card that the calibration made.
        stages: Of roll-outs.
        **settings: Of the adaptation.
    """

    def __init__(self, folder: Path, card: ls.Card, stages: tuple[Stage, ...], **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.stages, self.base = folder, stages, card.base_table
        self.adaptation = ls.Adaptation(card, folder / "adaptation.db", **settings)
        self.rollout = ls.Rollout(folder / "rollout.db") if (folder / "rollout.db").exists() else None

    def table(self, arm: str) -> ls.SolverTable:
        """The sampler of an arm."""
        proposal = self.adaptation.proposal() if arm == "new" else None
        return self.adaptation.card.table if proposal is None else proposal.card.table

    def answer(self, key: int, denoiser: Any, noise: Tensor, converged: Tensor) -> None:
        """Answer a request, measure its error, and let the adaptation learn from its converged solution."""
        running = self.rollout is not None and self.rollout.status().status == "running"
        arm = self.rollout.arm(key) if self.rollout is not None and running else "old"
        table = self.table(arm)

        def error(one: ls.SolverTable) -> float:
            return float(np.sqrt(squared_errors(ls.sample(denoiser, noise, one), converged)[0]))

        self.adaptation.observe(denoiser, noise, converged)
        if self.rollout is not None and running:
            other = error(self.table("old")) if arm == "new" else None
            self.rollout.record(key, arm, error=error(table), other_error=other)
            ended = self.rollout.status().status
            if ended != "running":
                self.adaptation.settle(adopted=ended == "complete")
        elif (proposal := self.adaptation.proposal()) is not None:
            proposal.card.save(self.folder / "proposed.json")
            self.adaptation.card.save(self.folder / "current.json")
            new, old = self.folder / "proposed.json", self.folder / "current.json"
            self.rollout = ls.Rollout.start(self.folder / "rollout.db", new=new, old=old, stages=self.stages)

    def close(self) -> None:
        """Close the stores."""
        self.adaptation.close()
        if self.rollout is not None:
            self.rollout.close()


def follow(
    folder: Path,
    card: ls.Card,
    networks: dict[float, ls.Model],
    requests: int = REQUESTS,
    looks: int = EVERY,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The stream over networks by the size of their change; one row per measurement.

    Args:
        folder: Where finished steps are kept.
        card: The card of the unchanged network.
        networks: From the unchanged one on.
        requests: Requests at each.
        looks: Requests between two measurements.
        **settings: Of the adaptation.
    """
    rows, before = list[dict[str, Any]](), None
    for number, (size, model) in enumerate(networks.items()):
        place, done = folder / f"step-{number}", folder / f"step-{number}.json"
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            if before is not None:
                shutil.copytree(before, place)
            part = _step(place, card, size, model, number, requests, looks, settings)
            write_atomically(done, json.dumps(part).encode())
        rows += json.loads(done.read_text(encoding="utf-8"))
        before = place
    return rows


def _step(
    place: Path,
    card: ls.Card,
    size: float,
    model: ls.Model,
    number: int,
    requests: int,
    looks: int,
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    service, fresh = Service(place, card, STAGES, **settings), Fresh(model, card.base_table, FRESH)
    level, rows = float(card.table.sigmas[0]), list[dict[str, Any]]()
    known = {"base": measured(fresh.squared(card.base_table)), "card": measured(fresh.squared(card.table))}
    seeds = seed_range("calibration", 2 + number, requests)
    for begin in range(0, requests, TOGETHER):
        part = seeds[begin : min(begin + TOGETHER, requests)]
        denoiser, noise = model.denoiser(part), model.noise(part, level)
        converged = solve_reference(denoiser, noise, card.base_table, check_samples=0).samples
        for i, seed in enumerate(part):
            here, n = slice(i, i + 1), begin + i + 1
            service.answer(number * requests + n, model.denoiser(range(seed, seed + 1)), noise[here], converged[here])
            if n % looks and n != requests:
                continue
            told = service.adaptation.status()
            adapted = measured(fresh.squared(service.adaptation.card.table))
            row = {"size": size, "requests": number * requests + n, **known, "adapted": adapted, "move": told.move}
            rows.append({**row, **told.counters.model_dump()})
            print(json.dumps(rows[-1]), flush=True)
    service.close()
    return rows


def withstand(
    card: ls.Card, model: ls.Model, make: Callable[[ls.Model, float, range, int], Request], requests: int = HOSTILE
) -> dict[str, Any]:
    """What hostile traffic does to an adaptation of the unchanged network's card."""
    level, farthest = float(card.table.sigmas[0]), 0.0
    with ls.Adaptation(card) as adaptation:
        for n, seed in enumerate(seed_range("calibration", 20, requests)):
            asked = make(model, level, range(seed, seed + 1), n)
            finite = bool(torch.isfinite(asked.noise).all())
            converged = asked.noise
            if finite:
                converged = solve_reference(asked.denoiser, asked.noise, card.base_table, check_samples=0).samples
            adaptation.observe(asked.denoiser, asked.noise, converged, flagged=asked.flagged)
            farthest = max(farthest, adaptation.status().next_move)
        told = adaptation.status()
    return {"farthest": farthest, "bound": told.bound, **told.counters.model_dump()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="galaxy:hsc32", help="a model without classes")
    parser.add_argument("--nfe", type=int, default=5, help="network calls")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, work = ls.load_model(asked.model), asked.out / "work" / "adaptation"
    work.mkdir(parents=True, exist_ok=True)
    start, file = base_table(model.schedule, "ddim", asked.nfe), work / "card.json"
    if not file.exists():
        calibrated(model, start, model=model.info(), journal=work / "journal").save(file)
    card = ls.load_card(file)
    rows = follow(work, card, {size: changed(model, size) for size in SIZES})
    traffic = {}
    for name in TRAFFIC:
        kept = work / f"hostile-{name}.json"
        if not kept.exists():
            write_atomically(kept, json.dumps(withstand(card, model, hostile(name, card))).encode())
        traffic[name] = json.loads(kept.read_text(encoding="utf-8"))
        print(name, json.dumps(traffic[name]), flush=True)
    with ls.Adaptation(card) as adaptation:
        price = adaptation.price
    settings = AdaptationSettings()
    about = {"model": asked.model, "nfe": asked.nfe, "rank": RANK, "requests": REQUESTS, "hostile": HOSTILE}
    about |= {
        "fresh": FRESH,
        "price": price,
        "step": settings.step,
        "bound": settings.bound,
        "forgetting": settings.forgetting,
    }
    content = json.dumps({"about": about, "stream": rows, "traffic": traffic}, indent=1) + "\n"
    write_atomically(asked.out / "adaptation.json", content.encode())


if __name__ == "__main__":
    main()
