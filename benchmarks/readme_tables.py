"""Write the README's tables from the committed results files, between the markers that name them.

python benchmarks/readme_tables.py            # rewrite README.md
python benchmarks/readme_tables.py --check    # exit with 1 if README.md does not say what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from longstride.evaluation.plots import LABELS
from longstride.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NFES = (5, 6, 8, 10)


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def effect(name: str) -> str:
    """RMSE (median) per solver and number of calls; calibrated solvers that beat their base in both are bold."""
    results = load(name)
    cells = {(row["solver"], row["nfe"]): row for row in results["rows"]}
    lines = ["| network calls | " + " | ".join(map(str, NFES)) + " |", "|---|" + "---|" * len(NFES)]
    for solver in dict.fromkeys(row["solver"] for row in results["rows"]):
        shown = []
        for nfe in NFES:
            row, base = cells[solver, nfe], cells[solver.removeprefix("iia_"), nfe]
            text = f"{row['rmse']:.3f} ({row['median']:.3f})"
            better = row["rmse"] < base["rmse"] and row["median"] < base["median"]
            shown.append(f"**{text}**" if better else text)
        lines.append(f"| {LABELS[solver]} | " + " | ".join(shown) + " |")
    study, reference = results["study"], results["reference"]
    lines.append("")
    lines.append(
        f"RMSE (and median per-sample error) to the converged solution over {study['samples']} samples of fresh noise, "
        f"in the network's own pixel values; grid `{study['grid']}`, reference UniPC-3 with {reference['nfe']} "
        f"calls (own error about {reference['error']:.4f}), calibrated on {study['calibration_samples'] // 2} samples "
        "with as many held out. Bold: better than its own base in both."
    )
    return "\n".join(lines)


def frechet(name: str) -> str:
    """Fréchet distance to the converged samples."""
    results = load(name)
    cells = {(row["solver"], row["nfe"]): row for row in results["rows"]}
    lines = ["| network calls | " + " | ".join(map(str, NFES)) + " |", "|---|" + "---|" * len(NFES)]
    for solver in dict.fromkeys(row["solver"] for row in results["rows"]):
        shown = [f"{cells[solver, nfe]['fd']:.2f}" for nfe in NFES]
        lines.append(f"| {LABELS[solver]} | " + " | ".join(shown) + " |")
    study = results["study"]
    lines.append("")
    lines.append(
        f"FD (EfficientNet-Lite0, {study['dimensions']} principal components, {study['samples']} samples) to the "
        f"converged samples from the same noise. As many converged samples from other noise have "
        f"{results['fd']['other_noise']:.2f}; they are independent, while the solvers start from the same noise."
    )
    return "\n".join(lines)


def overhead() -> str:
    """Time per step of everything but the network, beside diffusers' scheduler."""
    results = load("overhead")
    lines = ["| state | solver | ours, µs per step | DPMSolverMultistepScheduler | ratio |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        shape = " × ".join(map(str, row["shape"]))
        lines.append(
            f"| {shape} | {LABELS.get(row['solver'], row['solver'])} | {row['ours_us']:.0f} "
            f"| {row['diffusers_us']:.0f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


SECTIONS = {
    "garments": lambda: effect("garments"),
    "garments-fd": lambda: frechet("garments"),
    "galaxy": lambda: effect("galaxy_hsc32"),
    "overhead": overhead,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, write in SECTIONS.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?\n?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(text):
            sys.exit(f"README.md has no section <!-- {name} -->")
        body = write()
        text = marked.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
    if not args.check:
        write_atomically(readme, text.encode())
    elif text != readme.read_text():
        sys.exit("README.md differs from benchmarks/results: run python benchmarks/readme_tables.py")


if __name__ == "__main__":
    main()
