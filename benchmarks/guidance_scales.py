r"""What one more free number per call is worth under guidance: the scale w_k of :math:`U + w_k (C - U)`.

    python -m benchmarks.guidance_scales

Two fits of every network start from the universal core that never saw it, on the same samples: one of weights and
levels, and one that moves a scale of every call, too. Both are measured on fresh noise.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.markdown import markdown_table
from benchmarks.networks.members import MEMBERS
from benchmarks.networks.solved import Solved
from longstride.arrays import Array
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.reference.solve import squared_errors
from longstride.cores.core import Core
from longstride.errors import InputError, LongstrideError
from longstride.files import write_atomically
from longstride.network import in_batches
from longstride.reports import Errors
from longstride.sampler import sample

__all__ = ["scales_table"]

ROOT = Path(__file__).resolve().parent.parent
EXACT = ("wine", "cancer", "small_digits")
#: Networks by network calls; the trained network is dear at 10.
NETWORKS = {6: (*EXACT, "digits"), 10: EXACT}
SCALES = (3.0, 7.5)
FITTED, FRESH, SEED, BATCH = 48, 256, 10**6, 64
#: Steps of a fit, the ridge, trials of a step, and steps of the difference quotients: of weights, levels and log w_k.
ITERATIONS, RIDGE, TRIALS = 5, 1e-3, 5
QUOTIENTS = (2e-3, 1e-2, 1e-2)


class Guided:
    """Runs of one guided network with a scale of every call.

    Args:
        name: The network, with its guidance scale.
        seeds: Seeds of the samples.
        folder: Where solutions are kept.
    """

    def __init__(self, name: str, seeds: range, folder: Path) -> None:
        self.member = MEMBERS[name]
        self.solved = Solved(self.member, seeds, False, folder)
        self.plain = self.solved.model.denoiser(seeds, 1.0)

    def ends(self, core: Core, logs: Array) -> Tensor:
        """Where samples end under a core, with the scales ``w exp(logs)`` of its calls, ``logs`` of shape ``(K,)``."""
        table, w = self.solved.core(core), self.member.guidance
        assert w is not None
        scales = dict(zip(table.sigmas[:-1].tolist(), (w * np.exp(logs)).tolist(), strict=True))
        found = []
        for begin in range(0, len(self.solved.noise), BATCH):
            few = slice(begin, begin + BATCH)
            guided = in_batches(self.solved.denoiser.select(few), BATCH)
            plain = in_batches(self.plain.select(few), BATCH)

            def denoise(x: Tensor, sigma: float, guided: Any = guided, plain: Any = plain) -> Tensor:
                c = plain(x, sigma)
                moved: Tensor = c + (scales[sigma] - 1) / (w - 1) * (guided(x, sigma) - c)
                return moved

            found.append(sample(denoise, self.solved.noise[few], table))
        return torch.cat(found)

    def squared(self, core: Core, logs: Array) -> Array:
        """Squared errors of samples."""
        return squared_errors(self.ends(core, logs), self.solved.target)


def fitted(few: Guided, core: Core, scales: bool) -> tuple[Core, Array]:
    """A core and the logarithms of its scales over w, after Gauss–Newton steps; without ``scales`` those stay 0."""
    nfe, p = core.nfe, len(core.numbers)
    free = p + nfe * scales
    sizes = np.repeat(QUOTIENTS, [p - nfe + 1, nfe - 1, nfe])[:free]

    def parts(values: Array) -> tuple[Core, Array]:
        return Core.of(values[:p], nfe, core.start), np.append(values[p:], np.zeros(nfe * (not scales)))

    values = np.concatenate([core.numbers, np.zeros(free - p)])
    target, damping = few.solved.target.flatten(1).double(), 1e-2
    for _ in range(ITERATIONS):
        here = few.ends(*parts(values)).flatten(1).double()
        squared = (target - here).square().mean(1).numpy()
        loss = Loss(float(np.median(squared)))
        weight = torch.from_numpy(np.sqrt(loss.weight(squared)))[:, None]
        columns = []
        for n in range(free):
            step = sizes[n] * np.eye(free)[n]
            try:
                core_there, logs = parts(values + step)
            except InputError:  # the level would pass its neighbour
                core_there, logs = parts(values - step)
                step = -step
            there = few.ends(core_there, logs).flatten(1).double()
            columns.append(weight * (there - here) / float(step[n]))
        equations = NormalEquations.of(columns, weight * (target - here))
        before = float(loss.value(squared).mean())
        for _ in range(TRIALS):
            trial = values + equations.solve(damping + RIDGE)
            try:
                now = float(loss.value(few.squared(*parts(trial))).mean())
            except LongstrideError:  # levels that do not fall, or a state that is not finite
                now = math.inf
            if now < before:
                break
            damping *= 6
        else:
            break
        values, damping = trial, max(damping / 4, 1e-6)
    return parts(values)


def measured(name: str, nfe: int, core: Core, folder: Path) -> dict[str, Any]:
    """Both fits of one network on fresh noise."""
    few, fresh = (Guided(name, range(begin, begin + count), folder) for begin, count in ((0, FITTED), (SEED, FRESH)))
    row: dict[str, Any] = {"network": name, "nfe": nfe, "core": vars(Errors.of(fresh.squared(core, np.zeros(nfe))))}
    for key, scales in (("plain", False), ("scales", True)):
        own, logs = fitted(few, core, scales)
        row[key] = vars(Errors.of(fresh.squared(own, logs)))
        row[f"{key}_factors"] = np.exp(logs).tolist()
    return row


def main() -> None:
    """The command line."""
    from training.kept import WORK, left_out

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    file = asked.out / "guidance_scales.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    for nfe, names in NETWORKS.items():
        for w in SCALES:
            for name in names:
                full = f"{name}@{w:g}"
                if any((row["network"], row["nfe"]) == (full, nfe) for row in rows):
                    continue
                rows.append(measured(full, nfe, left_out(MEMBERS[full], nfe)[w, False], WORK / "samples"))
                print(json.dumps(rows[-1]), flush=True)
                write_atomically(file, (json.dumps({"rows": rows}, indent=1) + "\n").encode())


def scales_table(file: Path) -> str:
    """Errors of both fits, and their ratio."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    lines, ratios = list[list[object]](), list[tuple[float, float]]()
    for row in rows:
        ratio = [row["scales"][kind] / row["plain"][kind] for kind in ("rmse", "median")]
        ratios.append((ratio[0], ratio[1]))
        shown = [f"{row[key]['rmse']:.4f} ({row[key]['median']:.4f})" for key in ("core", "plain", "scales")]
        lines.append([row["network"], row["nfe"], *shown, f"{ratio[0]:.2f} ({ratio[1]:.2f})"])
    mean = np.exp(np.mean(np.log(ratios), 0))
    lines.append(["geometric mean", "", "", "", "", f"{mean[0]:.2f} ({mean[1]:.2f})"])
    return markdown_table(["network", "calls", "universal", "fitted", "with scales", "ratio"], lines)


if __name__ == "__main__":
    main()
