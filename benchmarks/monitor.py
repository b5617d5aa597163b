"""What the monitor sees: faults of a service on several networks, and false alarms on clean samples.

    python -m benchmarks monitor --zoo FOLDER

Every network is calibrated, and its card holds 256 clean runs. Statistics of runs on fresh samples, which neither the
calibration nor the clean runs saw, are collected without a fault and under every fault. Batches are resampled from
them. Finished parts are kept in ``work``: a run that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import longstride as ls
from benchmarks.monitor_faults import CASES, Case, Faulty, faults
from longstride.arrays import Array
from longstride.errors import unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import Purpose, seed_range
from longstride.files import check_writable, write_atomically
from longstride.guard import Normal, Recorder
from longstride.guard.statistics import names
from longstride.guard.thresholds import ranks, shift_law, spread_bounds
from longstride.journal import Journal, digest, table_digest
from longstride.sampler import Run

__all__ = ["MonitorBench", "Windows", "run_cases"]

#: Samples per network call; of a window; resampled windows of clean samples, and of every fault.
BATCH, WINDOW, CLEAN, FAULTY = 64, 16, 10_000, 2_000
#: Declared false alarms, and rates of the curves.
DECLARED, RATES = 1e-3, np.geomspace(1e-6, 0.5, 24)
#: Parts of a stream that a fault affects, streams, and most samples of a stream.
_PARTS, _STREAMS, _LONGEST = (0.05, 0.1, 0.25), 5, 2_000
#: Faults of which fewer windows are caught are looked into.
_CAUGHT = 0.99
#: Faults of single requests.
_PARTIAL = ("guidance x2", "levels +10 %", "other network")


class MonitorBench:
    """Calibrates one network, collects its runs, and judges them.

    Args:
        name: Name of the case.
        case: The case.
        zoo: Folder of networks that no package holds, or None.
        work: Folder of finished parts.
        say: Told what was finished.
    """

    def __init__(self, name: str, case: Case, zoo: Path | None, work: Path, say: Callable[[str], None]) -> None:
        self.name, self.case, self.say = name, case, say
        self.model, self.folder = case.load(zoo), work / "monitor" / name
        self.card = self._calibrated()
        self.runs = Journal(self.folder / "runs", {"table": table_digest(self.card.table)})

    def _calibrated(self) -> ls.Card:
        file, case = self.folder / "card.json", self.case
        if file.exists():
            return ls.load_card(file)
        start = base_table(self.model.schedule, "ddim", case.nfe)
        seeds = seed_range("calibration", 0, case.fitted + case.held_out)
        result = ls.calibrate(
            self.model.denoiser(seeds, case.guidance),
            self.model.noise(seeds, float(start.sigmas[0])),
            start,
            held_out=case.held_out,
            batch_size=BATCH,
            model=self.model.info(case.guidance),
            seed=0,
            journal=self.folder / "calibration",
            **case.settings,
        )
        result.card.save(file)
        self.say("calibrated")
        return result.card

    def collected(self, label: str, purpose: Purpose, number: int, count: int, make: Faulty) -> Array:
        """Statistics of runs of the card's table, ``(count, F)``."""
        table, found = self.card.table, []
        place = _place(label)
        seeds = seed_range(purpose, number, count)
        for begin in range(0, count, BATCH):
            part = seeds[begin : begin + BATCH]

            def run(part: range = part) -> dict[str, Array]:
                denoiser, factor = make(part)
                recorder = Recorder(table)
                with torch.inference_mode():
                    Run(self.model.noise(part, factor * float(table.sigmas[0])), table).finish(denoiser, recorder)
                return {"statistics": recorder.read()}

            found.append(self.runs(f"{place}/{part[0]}", run)["statistics"])
        self.say(label)
        return np.concatenate(found)

    def record(self) -> dict[str, Any]:
        """What the monitor sees on this network, as plain data."""
        normal, case = self.card.normal, self.case
        assert normal is not None
        plain: Faulty = lambda seeds: (self.model.denoiser(seeds, case.guidance), 1.0)  # noqa: E731
        clean = self.collected("clean", "evaluation", 0, case.clean, plain)
        found = {
            label: self.collected(label, "evaluation", 1, case.samples, make)
            for label, make in faults(case, self.model).items()
        }
        monitor = ls.Monitor(self.card, DECLARED, window=WINDOW).report()
        windows = Windows(normal, clean, CLEAN)
        return {
            "network": self.name,
            "nfe": case.nfe,
            "guidance": case.guidance,
            "accepted": self.card.end.accepted,
            "calibration_calls": self.card.calls,
            "clean_runs": normal.samples,
            "clean_samples": len(clean),
            "samples": case.samples,
            "thresholds": {
                "score": monitor.score_above,
                "score_how": monitor.score_how,
                "shift": monitor.shift_above,
                "spread": monitor.spread_within,
            },
            "false_alarms": {**windows.alarms(DECLARED), "sample": windows.above(monitor.score_above)},
            "stream": self._clean_stream(clean),
            "curve": windows.curve(),
            "faults": {
                label: self._fault(label, statistics, Windows(normal, statistics, FAULTY), monitor.score_above)
                for label, statistics in found.items()
            },
            "partial": {
                label: self._partial(clean, found[label]) for label in _PARTIAL if label in found
            },
        }  # fmt: skip

    def _fault(self, label: str, statistics: Array, windows: Windows, score: float) -> dict[str, Any]:
        alarms = windows.alarms(DECLARED)
        missed = alarms["window"] < _CAUGHT
        return {
            **alarms,
            "moved": self._moved(label) if missed else None,
            "until": self._until(statistics, statistics, 1.0) if missed else None,
            "sample": windows.above(score),
            "non_finite": windows.non_finite,
            "median_shift": float(np.median(windows.shift)) if len(windows.shift) else None,
            "unusual": windows.unusual(self.case.nfe),
            "curve": windows.curve(),
        }

    def _moved(self, label: str) -> float:
        """Distance of samples under a fault to those without it, over the error of the card's table."""
        table, case = self.card.table, self.case
        part = seed_range("evaluation", 1, min(BATCH, case.samples))

        def run(make: Faulty) -> torch.Tensor:
            denoiser, factor = make(part)
            with torch.inference_mode():
                return Run(self.model.noise(part, factor * float(table.sigmas[0])), table).finish(denoiser)

        def distance() -> dict[str, Array]:
            plain = run(lambda seeds: (self.model.denoiser(seeds, case.guidance), 1.0))
            away = run(faults(case, self.model)[label]) - plain
            return {"rms": np.array(float(away.square().mean().sqrt()))}

        error = self.card.end.calibrated.rmse if self.card.end.accepted else self.card.end.base.rmse
        return float(self.runs(f"moved/{_place(label)}", distance)["rms"]) / error

    def _clean_stream(self, clean: Array) -> dict[str, int]:
        """Alarms of a monitor on resampled clean samples."""
        rng, monitor = np.random.default_rng(0), ls.Monitor(self.card, DECLARED, window=WINDOW)
        monitor.see(clean[rng.integers(0, len(clean), CLEAN * WINDOW // 4)])
        report = monitor.report()
        return {name: getattr(report, name) for name in ("samples", "windows", "window_alarms", "drift_alarms")}

    def _partial(self, clean: Array, faulty: Array) -> dict[str, Any]:
        """Samples until the first alarm of a window or the stream, if a part of the requests has the fault."""
        return {f"{part:g}": self._until(clean, faulty, part) for part in _PARTS}

    def _until(self, clean: Array, faulty: Array, part: float) -> dict[str, float]:
        rng, seen = np.random.default_rng(0), list[int]()
        for _ in range(_STREAMS):
            monitor = ls.Monitor(self.card, DECLARED, window=WINDOW)
            while monitor.report().samples < _LONGEST:
                bad = rng.random(WINDOW) < part
                some = clean[rng.integers(0, len(clean), WINDOW)]
                some[bad] = faulty[rng.integers(0, len(faulty), int(bad.sum()))]
                saw = monitor.see(some)
                if saw.drift or any(one.alarm for one in saw.windows):
                    break
            seen.append(monitor.report().samples)
        return {"median": float(np.median(seen)), "most": max(seen)}


def _place(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label.replace("%", "pct").replace("-", "minus"))


class Windows:
    """Resampled windows of some runs, judged against clean runs.

    Args:
        normal: Clean runs.
        statistics: Statistics of the runs ``(n, F)``.
        count: Number of windows.
    """

    def __init__(self, normal: Normal, statistics: Array, count: int) -> None:
        self.normal, self.statistics = normal, statistics
        cut, self.scores = normal.judged(statistics)
        self.non_finite = float(np.isinf(self.scores).mean())
        whole = np.isfinite(self.scores)
        cut, places = cut[whole], ranks(normal, self.scores[whole])
        self.shift, self.spread = np.empty(0), np.empty(0)
        if len(cut) >= WINDOW:
            rng = np.random.default_rng(int(digest(statistics)[:8], 16))
            chosen = rng.integers(0, len(cut), (count, WINDOW))
            self.shift = np.array([WINDOW * float(np.square(cut[one].mean(0)).sum()) for one in chosen])
            self.spread = places[chosen].mean(1)

    def alarms(self, rate: float) -> dict[str, float]:
        """Share of windows with an alarm, of either statistic and of both together."""
        low, high = spread_bounds(self.normal, WINDOW, rate / 2)
        shift = self.shift > shift_law(self.normal, WINDOW).quantile(rate / 2)
        spread = (self.spread < low) | (self.spread > high)
        if not len(shift):  # what is not finite falls back at once
            return {"window": 1.0, "shift": 1.0, "spread": 1.0}
        return {"window": float((shift | spread).mean()), "shift": float(shift.mean()), "spread": float(spread.mean())}

    def above(self, score: float) -> float:
        """Share of samples with a larger score."""
        return float((self.scores > score).mean())

    def curve(self) -> list[float]:
        """Share of windows with an alarm at each declared rate."""
        return [self.alarms(float(rate))["window"] for rate in RATES]

    def unusual(self, nfe: int) -> list[str]:
        """The statistics that are farthest off in the mean."""
        scaled = self.normal.scaled(self.statistics[np.isfinite(self.scores)])
        if not len(scaled):
            return []
        means = scaled.mean(0)
        return [f"{names(nfe)[n]} {means[n]:+.1f}" for n in np.argsort(-np.abs(means))[:3]]


def run_cases(names: Sequence[str], zoo: Path | None, out: Path, say: Callable[..., None]) -> None:
    """Measure networks, and add them to the results file.

    Args:
        names: Of :data:`~benchmarks.monitor_faults.CASES`; default: all.
        zoo: See :class:`MonitorBench`.
        out: Folder of ``monitor.json``.
        say: Told the network and what was finished.

    Raises:
        InputError: an unknown name, or a network that is not there.
    """
    torch.set_num_threads(1)
    file = out / "monitor.json"
    check_writable(file, new_folders=True)
    known = json.loads(file.read_text(encoding="utf-8"))["networks"] if file.exists() else {}
    for name in names or CASES:
        if name not in CASES:
            raise unknown("case", name, CASES)
        bench = MonitorBench(name, CASES[name], zoo, out / "work", partial(say, name))
        known[name] = bench.record()
        content = {
            "declared": DECLARED,
            "window": WINDOW,
            "clean_windows": CLEAN,
            "faulty_windows": FAULTY,
            "rates": RATES.tolist(),
            "streams": _STREAMS,
            "longest": _LONGEST,
            "networks": {one: known[one] for one in CASES if one in known},
        }
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
