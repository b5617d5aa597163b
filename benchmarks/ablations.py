"""What each choice of IIA is worth: look-back, fine steps, batch, fine solver, trajectory, calls, and what transfers.

Every number is the root-mean-square error to the converged solution, on noise that calibration did not see. Every
finished part is kept: the benchmark goes on after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.lab import Lab, reapply
from benchmarks.markdown import slug_of
from longstride.evaluation.fitting import Say
from longstride.files import write_atomically
from longstride.processes import is_first
from longstride.zoo import Model

__all__ = ["ABLATED", "ABLATIONS", "SIZES", "Record", "run_ablations", "run_records"]

#: Evaluation samples, fitted and held-out samples, in the quick form and in the full one.
SIZES = {True: (64, 16, 16), False: (192, 48, 48)}

Record = dict[str, Any]


def _look_back(lab: Lab, quick: bool) -> Iterator[Record]:
    """r and the family of directions: DDIM, DPM-Solver++ 2M, and BIIA with a larger r against IIA on Heun."""
    for base, family in (
        ("ddim", "differences"),
        ("ipndm", "differences"),
        ("dpmpp_2m", "differences"),
        ("heun", "increments"),
        ("heun", "split"),
    ):
        for nfe in (8,) if quick else (6, 10):
            for r in range(4):
                if family == "differences" and r == 0:
                    continue  # no difference at all: the base
                yield lab.record(base, nfe, directions=family, r=r)


def _stages(lab: Lab, quick: bool) -> Iterator[Record]:
    """Whether Heun's predictor is fitted too."""
    for nfe in (8,) if quick else (6, 10):
        for stages in (False, True):
            yield lab.record("heun", nfe, directions="split", r=1, stages=stages)


def _substeps(lab: Lab, quick: bool) -> Iterator[Record]:
    """M: how fine the target is."""
    for base, family in (("ddim", "differences"), ("ipndm", "differences"), ("heun", "split")):
        for m in (1, 2, 4, 10) if quick else (1, 2, 3, 4, 6, 10, 20):
            yield lab.record(base, 8, directions=family, substeps=m)


def _batch(lab: Lab, quick: bool) -> Iterator[Record]:
    """How many samples are fitted, with three seeds each."""
    for base, family in (("ddim", "differences"), ("heun", "split")):
        for batch in (4, 16, 64) if quick else (4, 16, 32, 64, 256):
            for seed in range(1 if quick else 3):
                yield lab.record(base, 8, batch=batch, seed=seed, directions=family)


def _fine(lab: Lab, quick: bool) -> Iterator[Record]:
    """Which solver takes the fine steps."""
    for base in ("ddim", "dpmpp_2m") if quick else ("ddim", "spndm", "ipndm", "dpmpp_2m"):
        for fine in ("base", "ddim", "heun", "dpmpp_2m", "unipc"):
            yield lab.record(base, 8, fine=fine)


def _trajectory(lab: Lab, quick: bool) -> Iterator[Record]:
    """Fitted along the states that inference will see, or along the states of the base."""
    for base in ("ddim", "spndm", "ipndm", "dpmpp_2m"):
        for nfe in (8,) if quick else (5, 8, 10):
            for trajectory in ("calibrated", "base"):
                yield lab.record(base, nfe, trajectory=trajectory)


def _calls(lab: Lab, quick: bool) -> Iterator[Record]:
    """From 4 calls to 50."""
    bases = {"ddim": "differences", "ipndm": "differences", "dpmpp_2m": "differences", "heun": "split"}
    for base, family in bases.items():
        for nfe in (4, 8, 16) if quick else (4, 6, 8, 10, 16, 26, 50):
            yield lab.record(base, nfe, directions=family, substeps=4)


def _seeds(lab: Lab, quick: bool) -> Iterator[Record]:
    """The same calibration from other noise: how far coefficients and errors move."""
    for base in ("ddim", "ipndm"):
        for seed in range(2 if quick else 5):
            yield lab.record(base, 8, batch=16, seed=seed)


def _grids(lab: Lab, quick: bool) -> Iterator[Record]:
    """Coefficients that were found on one grid, used on another."""
    spacings = ("uniform", "karras", "log_snr")
    for source in spacings:
        found = lab.calibrate(lab.table("ddim", 8, source))
        for target in spacings:
            base = lab.table("ddim", 8, target)
            table = found.table if source == target else reapply(found, base)
            yield {"base": "ddim", "nfe": 8, "from": source, "to": target, **lab.compare(base, table)}


def _guidance(lab: Lab, quick: bool) -> Iterator[Record]:
    """Coefficients that were found at one guidance scale, used at another."""
    scales = (1.0, 3.0) if quick else (1.0, 3.0, 7.5)
    labs = {scale: lab.guided(scale) for scale in scales}
    for source in scales:
        table = labs[source].calibrate(labs[source].table("ddim", 8)).table
        for target in scales:
            base = labs[target].table("ddim", 8)
            yield {"base": "ddim", "nfe": 8, "from": source, "to": target, **labs[target].compare(base, table)}


def _classes(lab: Lab, quick: bool) -> Iterator[Record]:
    """Coefficients that were found on half of the classes, used on the other."""
    half = lab.model.num_classes // 2
    labs = {"first half": lab.of_classes(range(half)), "second half": lab.of_classes(range(half, 2 * half))}
    for base_name in ("ddim",) if quick else ("ddim", "ipndm"):
        for source in labs:
            table = labs[source].calibrate(labs[source].table(base_name, 8)).table
            for target in labs:
                base = labs[target].table(base_name, 8)
                found = labs[target].compare(base, table)
                yield {"base": base_name, "nfe": 8, "from": source, "to": target, **found}


#: Every ablation, and what it needs of the model beside samples.
ABLATIONS: dict[str, tuple[Callable[[Lab, bool], Iterator[Record]], str]] = {
    "look_back": (_look_back, ""),
    "stages": (_stages, ""),
    "substeps": (_substeps, ""),
    "batch": (_batch, ""),
    "fine": (_fine, ""),
    "trajectory": (_trajectory, ""),
    "calls": (_calls, ""),
    "seeds": (_seeds, ""),
    "grids": (_grids, ""),
    "guidance": (_guidance, "guidance"),
    "classes": (_classes, "classes"),
}
#: Models of the documentation's ablations: a cheap network, and a network that knows classes.
ABLATED: dict[str, tuple[str, ...]] = {"galaxy:hsc32": tuple(ABLATIONS), "garments": ("guidance", "classes")}


def run_ablations(
    model: Model, out: Path, *, quick: bool, say: Say, names: Iterable[str] = tuple(ABLATIONS)
) -> dict[str, list[Record]]:
    """Ablations on one model, written to ``out / ablations_MODEL.json``.

    Args:
        model: The model.
        out: Folder; ``work`` in it keeps finished parts.
        quick: Whether to draw few samples and leave settings out.
        say: Called with (what is being done, done, total).
        names: Which ablations; ablations of classes or guidance need a model with classes.
    """
    wanted = {
        name: run
        for name, (run, need) in ((name, ABLATIONS[name]) for name in names)
        if not need or (need == "classes" and model.num_classes > 1) or (need == "guidance" and model.null_class)
    }
    return run_records(model, out, wanted, "ablations", quick=quick, say=say)


def run_records(
    model: Model,
    out: Path,
    wanted: Mapping[str, Callable[[Lab, bool], Iterator[Record]]],
    kind: str,
    *,
    quick: bool,
    say: Say,
) -> dict[str, list[Record]]:
    """Answer some questions on one model, and write the records to ``out / KIND_MODEL.json``.

    Answers to other questions that are there, measured in the same way, are kept.

    Args:
        model: The model.
        out: Folder; ``work`` in it keeps finished parts.
        wanted: The questions by name.
        kind: First part of the file's name.
        quick: Whether to draw few samples and leave settings out.
        say: Called with (what is being done, done, total).
    """
    slug = slug_of(model.name)
    samples, batch, held_out = SIZES[quick]
    lab = Lab(model, out / "work" / f"{kind}_{slug}", samples=samples, batch=batch, held_out=held_out)
    found: dict[str, list[Record]] = {}
    for done, (name, run) in enumerate(wanted.items()):
        say(f"{kind} on {model.name}", done, len(wanted))
        found[name] = list(run(lab, quick))
    say(f"{kind} on {model.name}", len(wanted), len(wanted))
    if is_first():
        about = {"model": model.name, "samples": samples, "batch": batch, "held_out": held_out, "quick": quick}
        file = out / f"{kind}_{slug}.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        known = before["ablations"] if before.get("about") == about else {}
        text = json.dumps({"about": about, "ablations": {**known, **found}}, indent=1, allow_nan=False) + "\n"
        write_atomically(file, text.encode())
    return found
