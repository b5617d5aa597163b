"""What calibration and evaluation take on 1, 8 and 64 GPUs: counted in the code, and times with assumed network speeds.

    python -m benchmarks scale
    python -m benchmarks scale --seconds SDXL=0.05

A calibration runs once, on one process. Every piece of its work is also cut as many processes would cut it, and the
network calls of each of them are counted. Processes meet after every piece, so the piece takes as long as its slowest
process. The calls of a process are counted, and no time of any GPU is measured: seconds per network call are
assumptions, each with its source.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

from longstride.errors import InputError, unknown

__all__ = ["NETWORKS", "PROCESSES", "Assumed", "counted", "evaluation_path", "scale"]

#: Numbers of processes, one per GPU.
PROCESSES = (1, 8, 64)
#: Steps of reference solutions, and the samples of which one checks them, as the code has them.
_REFERENCE, _CHECKED = 64, 8


@dataclass(frozen=True)
class Assumed:
    """A network whose speed is assumed.

    Attributes:
        seconds: Of one network call on one sample, in batches that fill the GPU; a guided pair is one call.
        gpu: The GPU that the source names.
        source: Who says so.
        arithmetic: How the source's number becomes seconds per call.
        full: Samples that fill the GPU. A launch of fewer samples takes between its share and the time of a full one.
        evaluated: Samples of its evaluation.
        pipeline: Whether it is a whole pipeline, whose evaluation chooses its batches itself.
    """

    seconds: float
    gpu: str
    source: str
    arithmetic: str
    full: int
    evaluated: int
    pipeline: bool


_DDIM = "https://arxiv.org/abs/2010.02502"
NETWORKS: dict[str, Assumed] = {
    "CIFAR-10": Assumed(
        20 * 3600 / (50_000 * 1000), "RTX 2080 Ti", _DDIM, "50,000 samples × 1000 steps in 20 h", 64, 50_000, False
    ),
    "LSUN-256": Assumed(
        1000 * 3600 / (50_000 * 1000), "RTX 2080 Ti", _DDIM, "50,000 samples × 1000 steps in 1000 h", 64, 50_000, False
    ),
    "SDXL": Assumed(
        2.54 / 30,
        "A100",
        "https://pytorch.org/blog/accelerating-generative-ai-3/",
        "a guided picture of 1024 × 1024 in 30 steps in 2.54 s",
        1,
        1024,
        True,
    ),
    "Flux": Assumed(
        24.94 / 28,
        "L20",
        "https://github.com/xlite-dev/flux-faster",
        "a picture of FLUX.1-dev in 28 steps in 24.94 s",
        1,
        1024,
        True,
    ),
    "CogVideoX": Assumed(
        90 / 50,
        "H100",
        "https://github.com/THUDM/CogVideo",
        "a guided video of CogVideoX-5B in 50 steps in about 90 s",
        1,
        64,
        True,
    ),
}


#: What is counted of a process.
_WHAT = ("samples", "launches")
#: A denoiser that is known in closed form, and costs next to nothing.
EXACT = "two_modes"
#: More than there are units.
_APART = 10_000


@contextmanager
def _cut_as(rank: int, size: int) -> Iterator[None]:
    """Units are shared as process ``rank`` of ``size`` would share them."""
    with mock.patch("longstride.calibration.units.mine", lambda parts: list(parts[rank::size])):
        yield


def counted(
    denoiser: Any, noise: Any, table: Any, processes: Sequence[int] = PROCESSES, **options: Any
) -> dict[str, Any]:
    """Calibrate, and count what each of many processes would do.

    Args:
        denoiser: The network, bound to the conditions of all samples; from now on its calls are counted.
        noise: First states, shape ``(B, *)``.
        table: Gives the calls and the two ends.
        processes: Numbers of processes.
        **options: Of :func:`longstride.calibrate`.

    Returns:
        ``calls``, in samples; ``pieces`` of work, those of a kind and a number of units together; ``paths``, for every
        number of processes the samples and the launches of the slowest process, summed over all pieces.
    """
    import longstride as ls
    from longstride.calibration.samples import Samples

    seen, imagined = list[int](), list[bool]()

    network = denoiser.model

    def watched(x: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(x))
        # What others would compute is counted, and not computed.
        return x if imagined else network(x, *args, **kwargs)

    denoiser.model = watched
    plain, pieces = Samples.local, list[dict[str, Any]]()

    def local(self: Samples, name: str, numbers: Sequence[int], function: Any, **how: Any) -> Any:
        imagined.append(True)
        missing = [n for n in numbers if f"{name}/{n}" not in self.ledger.held]
        paths = {}
        for size in processes:
            each = []
            for rank in range(size):
                with _cut_as(rank, size):
                    mine = self.batches(missing)
                seen.clear()
                for batch in mine:  # under numbers of its own: what a piece keeps for later pieces is not shared
                    function(replace(batch, units=tuple(_APART * size + n for n in batch.units)))
                each.append((sum(seen), len(seen)))
            paths[size] = [max(one[n] for one in each) for n in (0, 1)]
        pieces.append({"kind": name.partition("/")[0], "units": len(missing), "paths": paths})
        imagined.clear()
        seen.clear()
        found = plain(self, name, numbers, function, **how)
        pieces[-1]["calls"] = sum(seen)
        return found

    with mock.patch.object(Samples, "local", local):
        result = ls.calibrate(denoiser, noise, table, **options)
    kinds = Counter[tuple[str, int]]()
    for piece in pieces:
        kinds[piece["kind"], piece["units"]] += piece["calls"]
    assert sum(kinds.values()) == result.calls
    paths = [
        {"processes": size, **{what: sum(p["paths"][size][n] for p in pieces) for n, what in enumerate(_WHAT)}}
        for size in processes
    ]
    return {
        "calls": result.calls,
        "pieces": [{"kind": kind, "units": n, "calls": calls} for (kind, n), calls in kinds.items() if calls],
        "paths": paths,
    }


def evaluation_path(samples: int, batch_size: int, processes: int) -> int:
    """Samples of the process that has most of an evaluation, as its groups are shared."""
    from longstride.evaluation.measure import split_batches

    groups = [sum(map(len, group)) for group in split_batches(range(samples), batch_size)]
    return max(sum(groups[rank::processes]) for rank in range(processes))


def _evaluation(one: Assumed, nfe: int) -> dict[str, Any]:
    """Calls of an evaluation of a card and its base, and of its slowest process.

    Samples are solved for, a few once more with half the steps. Distances need as many solutions from other noise.
    """
    batch = max(1, one.evaluated // 32) if one.pipeline else 256
    per_sample = _REFERENCE + 2 * nfe
    per_sample += 0 if one.pipeline else _REFERENCE // 2 // _CHECKED + _REFERENCE
    paths = {size: per_sample * evaluation_path(one.evaluated, batch, size) for size in PROCESSES}
    return {"samples": one.evaluated, "batch_size": batch, "calls": per_sample * one.evaluated, "paths": paths}


def _counted_on(model: str, nfe: int) -> dict[str, Any]:
    """What a default calibration of a model does."""
    import torch

    import longstride as ls
    from benchmarks import small_work
    from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
    from longstride.evaluation.contestants import base_table
    from longstride.evaluation.seeds import seed_range

    torch.set_num_threads(1)
    fitted = fitted_samples(nfe)
    if model == EXACT:
        table, denoiser, noise = small_work.table(nfe), small_work.network(), small_work.noise(fitted + HELD_OUT)
    else:
        loaded, seeds = ls.load_model(model), seed_range("calibration", 0, fitted + HELD_OUT)
        table = base_table(loaded.schedule, "ddim", nfe)
        denoiser, noise = loaded.denoiser(seeds), loaded.noise(seeds, table.sigmas[0])
    about = {"model": model, "nfe": nfe, "fitted": fitted, "held_out": HELD_OUT, "batch_size": 64}
    options: dict[str, Any] = {"held_out": HELD_OUT, "batch_size": 64, "seed": 0, "monitor": 0, "universal": False}
    return {**about, **counted(denoiser, noise, table, **options)}


def _speeds(texts: Sequence[str]) -> dict[str, Assumed]:
    """The networks, with the reader's own seconds per call.

    Raises:
        InputError: a text is not ``NAME=SECONDS``, or no such network.
    """
    found = dict(NETWORKS)
    for text in texts:
        name, _, value = text.partition("=")
        if name not in found:
            raise unknown("network", name, found)
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise InputError(f"expected seconds per network call, such as {name}=0.05, got {text!r}")
        found[name] = replace(found[name], seconds=seconds, gpu="the reader's", source="", arithmetic="given")
    return found


def scale(
    out: Annotated[Path, typer.Option(help="Results; counts in it are kept.", metavar="FILE")] = Path(
        "benchmarks/results/scale.json"
    ),
    model: Annotated[
        str, typer.Option(help=f"Whose calibration is counted: {EXACT}, or as in calibrate.", metavar="MODEL")
    ] = EXACT,
    seconds: Annotated[
        list[str] | None,
        typer.Option(help="Seconds per network call of a network in place of its source's.", metavar="NAME=SECONDS"),
    ] = None,
) -> None:
    """What calibration and evaluation take on 1, 8 and 64 GPUs, at assumed network speeds.

    Calls are counted on a network that runs here. Seconds per network call of other networks are assumptions.
    """
    from longstride.calibration.endpoint.cost import most_calls
    from longstride.calibration.endpoint.settings import HELD_OUT, GaussNewtonSettings, fitted_samples
    from longstride.files import check_writable, write_atomically

    speeds = _speeds(seconds or [])
    check_writable(out, new_folders=True)
    known: Mapping[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    runs = [run for run in known.get("calibrations", []) if run["model"] == model]
    runs += [_counted_on(model, nfe) for nfe in (5, 8) if nfe not in [run["nfe"] for run in runs]]
    settings = GaussNewtonSettings()
    bounds = {nfe: most_calls(nfe, fitted_samples(nfe), HELD_OUT, settings) for nfe in (4, 5, 6, 8, 10, 12, 16, 20)}
    networks = [{"name": name, **asdict(one), "evaluation": _evaluation(one, 8)} for name, one in speeds.items()]
    content = {"calibrations": runs, "bounds": bounds, "networks": networks}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
    print(f"written {out}; python -m benchmarks pages --docs . fills docs/scale.md")
