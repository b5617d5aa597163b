"""Whether a change of the code leaves the calibrations alone: writes nine cards, and compares two folders of them.

    python -m benchmarks.same_cards write runs/before            # on the old code
    python -m benchmarks.same_cards write runs/after             # on the new code
    python -m benchmarks.same_cards compare runs/before runs/after

Cards that were fitted with the same number of samples per network call must be the same to the bit. With another
number (``write --batch-size 64``) a network rounds differently: then the accepted steps must be the same, and all
errors equal to 1 % (``compare --rounding``).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import longstride as ls
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range

#: Model, network calls, and by method the base solver with samples that are fitted and held out.
CASES = (("garments", 6), ("galaxy:hsc32", 5), ("garments_flow", 6))
METHODS = {"gauss_newton": ("ddim", 48, 24), "global": ("dpmpp_2m", 32, 32), "iia": ("dpmpp_2m", 32, 32)}
#: What a card says of how it was made, beside its numbers.
ABOUT = ("longstride", "checksum", "version")


def write(folder: Path, batch_size: int) -> None:
    """Calibrate, and save one card per model and method in ``folder``; cards that are there are left."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, nfe in CASES:
        model = ls.load_model(name)
        for method, (solver, fitted, held_out) in METHODS.items():
            file = folder / f"{name.replace(':', '_')}-{method}.json"
            if file.exists():
                continue
            table = base_table(model.schedule, solver, nfe)
            seeds = seed_range("calibration", 0, fitted + held_out)
            result = ls.calibrate(
                model.denoiser(seeds),
                model.noise(seeds, table.sigmas[0]),
                table,
                method=method,
                held_out=held_out,
                batch_size=batch_size,
                model=model.info(None),
                seed=0,
            )
            result.card.save(file)
            print(f"{file}: {result.calls:,} calls, RMSE {result.end.calibrated.rmse:.6f}", flush=True)


def differences(before: Any, after: Any, rounding: float, place: str = "") -> list[str]:
    """Places where two JSON values differ, numbers by more than a part ``rounding`` of the larger."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after} - (set(ABOUT) if not place else set()))
        return [d for k in keys for d in differences(before.get(k), after.get(k), rounding, f"{place}/{k}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            d
            for n, pair in enumerate(zip(before, after, strict=True))
            for d in differences(*pair, rounding, f"{place}/{n}")
        ]
    if isinstance(before, float) and isinstance(after, float):
        return [] if abs(before - after) <= rounding * max(abs(before), abs(after)) else [f"{place}: {before} {after}"]
    return [] if before == after else [f"{place}: {before} {after}"]


def verdict(card: dict[str, Any]) -> dict[str, Any]:
    """What must agree if the network rounds differently: accepted steps, errors at the end, network calls."""
    search = card["search"] or {"iterations": []}
    end = {key: card["end"][key] for key in ("base", "calibrated", "accepted", "given_back")}
    steps = [{key: step[key] for key in ("rmse", "held_out_rmse", "samples")} for step in search["iterations"]]
    rows = [{key: row[key] for key in ("row", "accepted", "error", "held_out_error")} for row in card["steps"]]
    return {"end": end, "steps": steps, "rows": rows, "calls": card["calls"]}


def compare(before: Path, after: Path, rounding: bool) -> bool:
    """Whether every card of ``before`` has its like in ``after``; prints what differs."""
    same, files = True, sorted(before.glob("*.json"))
    for file in files:
        cards = [json.loads((folder / file.name).read_text(encoding="utf-8")) for folder in (before, after)]
        old, new = map(verdict, cards) if rounding else cards
        found = differences(old, new, 0.01 if rounding else 0.0)
        print(f"{file.name}: {'the same' if not found else f'{len(found)} numbers differ'}")
        for line in found[:5]:
            print(f"  {line}")
        same = same and not found
    return same and bool(files)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="calibrate, and save the cards")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--batch-size", type=int, default=8, help="samples per network call")
    comparing = commands.add_parser("compare", help="exit with 1 if two folders of cards differ")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--rounding", action="store_true", help="errors to 1 % and accepted steps, not bits")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "write":
        write(asked.folder, asked.batch_size)
    elif not compare(asked.before, asked.after, asked.rounding):
        sys.exit(1)


if __name__ == "__main__":
    main()
