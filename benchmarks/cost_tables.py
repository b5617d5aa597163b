"""Tables of what things cost: memory, the time of calibrations and of single steps, launches of the network."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.markdown import markdown_table
from longstride.evaluation.contestants import label

__all__ = ["guard_cost_table", "launches_table", "memory_table", "overhead_table", "scheduler_table", "time_table"]


def memory_table(file: Path) -> str:
    """Peak memory and disk of an evaluation against its number of samples."""
    head = ("samples", "peak memory of the process, MiB", "finished batches on disk, MiB")
    rows = [
        (f"{row['samples']:,}", f"{row['peak_rss_mib']:.0f}", f"{row['disk_mib']:.0f}")
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]
    ]
    return markdown_table(head, rows) + "\n\n(galaxy network, `python -m benchmarks.memory`)"


def time_table(file: Path) -> str:
    """How long the default calibration takes on the bundled model."""
    content = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        (row["nfe"], f"{row['calls']:,}", row["processes"], f"{row['seconds'] / 60:.1f}") for row in content["rows"]
    ]
    device = content.get("device", f"{content['cores']} cores")
    where = f"{device}, {content['ms_per_call_and_sample']:.1f} ms per network call and sample"
    head = ("calls of the sampler", "network calls of its calibration, in samples", "processes", "minutes")
    table = markdown_table(head, rows)
    asked = {name: sorted({str(row[name]) for row in content["rows"]}, key=int) for name in ("nfe", "processes")}
    options = " ".join(f"--{name} {' '.join(values)}" for name, values in asked.items())
    options += f" --device {file.parent.name}" if "device" in content else ""
    return f"{table}\n\n({where}; `python -m benchmarks.calibration_time {options}`)"


def overhead_table(file: Path) -> str:
    """Time per step of everything but the network, beside diffusers' scheduler."""
    head = ("state", "solver", "ours, µs per step", "DPMSolverMultistepScheduler", "ratio")
    rows = []
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        times = f"{row['ours_us']:.0f}", f"{row['diffusers_us']:.0f}", f"{row['ratio']:.2f}"
        name = label(f"{row['solver']}{row['options'].get('order', '')}")
        rows.append((" × ".join(map(str, row["shape"])), name, *times))
    return markdown_table(head, rows)


def scheduler_table(file: Path) -> str:
    """Time per step of our scheduler, beside the cheapest of diffusers' multistep schedulers."""
    rows = []
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        if row["ours"]:
            size = " × ".join(map(str, row["shape"]))
            rows.append((size, row["dtype"], row["scheduler"], f"{row['step_us']:.0f}", f"{row['ratio']:.2f}"))
    return markdown_table(("latents", "precision", "solver", "µs per step", "over diffusers' cheapest"), rows)


def launches_table(file: Path) -> str:
    """How often a calibration calls the network, and how often if every call were full."""
    rows = [
        (
            row["nfe"],
            {"before": "units of 8 samples are batches", "after": "batches of 64 samples"}[row["label"]],
            f"{row['samples']:,}",
            f"{row['launches']:,}",
            f"{-(-row['samples'] // row['batch_size']):,}",
        )
        for row in sorted(json.loads(file.read_text(encoding="utf-8")), key=lambda row: int(row["nfe"]))
    ]
    head = (
        "calls of the sampler",
        "what the network sees",
        "calls in samples",
        "launches",
        "if every launch were full",
    )
    return markdown_table(head, rows) + "\n\n(galaxy network, `python -m benchmarks.launches --label after`)"


def guard_cost_table(file: Path) -> str:
    """What recording, scoring and judging add to a run."""
    rows = []
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        size, (low, high) = " × ".join(map(str, row["shape"])), row["added_us_quartiles"]
        added = f"{row['added_us'] / 1000:.3f} ({low / 1000:.3f} to {high / 1000:.3f})"
        rows.append((row["run"], size, f"{row['plain_us'] / 1000:.2f}", added, f"{100 * row['added_share']:.1f}"))
    head = ("run", "states", "plain, ms per call", "guard and monitor add, ms per call (quartiles)", "of the run, %")
    return markdown_table(head, rows)
