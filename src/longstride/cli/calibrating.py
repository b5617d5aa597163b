"""What ``longstride calibrate`` does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from longstride.calibration import METHODS, Calibration, calibrate
from longstride.calibration.iia import PUBLISHED, IIASettings
from longstride.cli.common import console, progress_bars, use_device
from longstride.errors import InputError, unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable
from longstride.grid import final_level
from longstride.processes import is_first, join, wait
from longstride.solvers import SOLVERS
from longstride.zoo import load_model

__all__ = ["make_card"]


def make_card(
    *,
    model: str,
    out: Path,
    method: str,
    solver: str | None,
    nfe: int,
    grid: str,
    final: str,
    settings: dict[str, Any],
    batch: int,
    held_out: int,
    batch_size: int,
    guidance: float | None,
    seed: int,
    device: str,
    quiet: bool,
) -> Calibration:
    """Calibrate and write the card; see the options of ``longstride calibrate``.

    Everything that can be refused is refused before the model is loaded or a network is called.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    base = solver or (PUBLISHED[method].bases[0] if method in PUBLISHED else "ddim")
    if base not in SOLVERS:
        raise unknown("base solver", base, SOLVERS)
    if method in PUBLISHED and base not in PUBLISHED[method].bases:
        raise InputError(
            f"{method} is for the base {' or '.join(PUBLISHED[method].bases)}, not for {base!r}; --method iia takes any"
        )
    last = final_level(final)
    IIASettings(**settings)
    join(device)
    loaded = load_model(model, device=use_device(device))
    table = base_table(loaded.schedule, base, nfe, spacing=grid, final=last)
    check_writable(out)
    seeds = seed_range("calibration", seed, batch + held_out)
    denoiser = loaded.denoiser(seeds, guidance)
    substeps = settings.get("substeps", IIASettings.substeps)
    if not quiet and is_first():
        bound = (substeps + 1) * (batch + held_out) * table.nfe * denoiser.cost
        console.print(
            f"fitting {batch} samples and holding out {held_out}: at most {bound:,} network calls in samples "
            f"({substeps} + 1 per sample and call), then the check at the end",
            highlight=False,
        )
    journal = out.with_name(f".{out.name}.unfinished")
    if journal.exists() and not quiet and is_first():
        console.print(f"going on with the calibration that was stopped ({journal})", highlight=False)
    with progress_bars() as say:
        result = calibrate(
            denoiser,
            loaded.noise(seeds, table.sigmas[0]),
            table,
            method=method,
            held_out=held_out,
            batch_size=batch_size,
            model=loaded.info(guidance),
            seed=seed,
            journal=journal,
            progress=lambda done, total, what: say(what, done, total),
            **settings,
        )
    if is_first():
        result.card.save(out)
    wait()
    shutil.rmtree(journal, ignore_errors=True)  # each its own, where they share no disk
    return result
