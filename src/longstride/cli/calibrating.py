"""What ``longstride calibrate`` does."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from longstride.book import CardBook
from longstride.calibration import METHODS, Calibration, calibrate
from longstride.calibration.calibrate import default_settings
from longstride.calibration.endpoint.settings import FITTED, HELD_OUT, GaussNewtonSettings, fitted_samples, most_calls
from longstride.calibration.many import anchors_of, calibrate_book
from longstride.calibration.rowwise.iia import PUBLISHED, IIASettings
from longstride.cli.common import console, progress_bars, use_device
from longstride.errors import InputError, unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable
from longstride.grid import Final, final_level, usual_grid
from longstride.processes import is_first, join, wait
from longstride.solvers import SOLVERS
from longstride.zoo import Model, load_model

__all__ = ["Wanted", "make"]

#: Samples that are fitted and held out by default where rows are fitted one by one: the paper's of IIA.
_FEW = (16, 16)


@dataclass(frozen=True)
class Wanted:
    """What was asked for; see the options of ``longstride calibrate``. None: the method's own."""

    model: str
    out: Path
    method: str
    solver: str | None
    nfes: list[int]
    guidances: list[float | None]
    grid: str
    final: str
    settings: Mapping[str, Any]
    batch: int | None
    held_out: int | None
    batch_size: int
    seed: int
    device: str
    quiet: bool

    @property
    def many(self) -> bool:
        """Whether it is a book."""
        return len(self.nfes) > 1 or len(self.guidances) > 1

    @property
    def base(self) -> str:
        """The base solver."""
        return self.solver or (PUBLISHED[self.method].bases[0] if self.method in PUBLISHED else "ddim")

    @property
    def samples(self) -> tuple[int, int]:
        """Samples that are fitted, and held out."""
        if self.method == "gauss_newton":  # what all free numbers together need
            fitted, held_out = FITTED if self.many else fitted_samples(self.nfes[0]), HELD_OUT
        else:
            fitted, held_out = _FEW
        return self.batch or fitted, self.held_out or held_out


def make(wanted: Wanted) -> Calibration | CardBook:
    """Calibrate and write the card, or the book.

    Everything that can be refused is refused before the model is loaded or a network is called.
    """
    last = _checked(wanted)
    join(wanted.device)
    loaded = load_model(wanted.model, device=use_device(wanted.device))
    for nfe in wanted.nfes:
        base_table(loaded.schedule, wanted.base, nfe, spacing=wanted.grid, final=last)
    for scale in wanted.guidances:
        loaded.denoiser(range(1), scale)  # refuses what the model cannot do
    check_writable(wanted.out)
    journal = wanted.out.with_name(f".{wanted.out.name}.unfinished")
    _tell(wanted, journal)
    done = _make_book(wanted, loaded, last, journal) if wanted.many else _make_card(wanted, loaded, last, journal)
    if is_first():
        (done if isinstance(done, CardBook) else done.card).save(wanted.out)
    wait()
    shutil.rmtree(journal, ignore_errors=True)  # each its own, where they share no disk
    return done


def _checked(wanted: Wanted) -> Final:
    """The last level, once all that needs no model is checked.

    Raises:
        InputError: unknown method, solver or level, settings that the method does not have, or a book by a method that
            makes none.
    """
    method, base = wanted.method, wanted.base
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if base not in SOLVERS:
        raise unknown("base solver", base, SOLVERS)
    if method in PUBLISHED and base not in PUBLISHED[method].bases:
        raise InputError(
            f"{method} is for the base {' or '.join(PUBLISHED[method].bases)}, not for {base!r}; --method iia takes any"
        )
    own = default_settings(method)
    has = [field.name for field in fields(own)]
    if foreign := [name for name in wanted.settings if name not in has]:
        options = " and ".join(f"--{name}" for name in foreign)
        takes = ", ".join(f"--{name}" for name in _OPTIONS if name in has)
        raise InputError(f"method {method!r} does not know {options}; of these options it takes {takes}")
    type(own)(**wanted.settings)
    if wanted.many and method != "gauss_newton":
        raise InputError(f"a book of several settings is made by method 'gauss_newton', not by {method!r}")
    if wanted.many and wanted.base != "ddim":
        raise InputError("a book starts from every classical solver: drop --solver")
    return final_level(wanted.final)


#: Options that some methods have and others have not.
_OPTIONS = ("iterations", "residual", "window", "ridge", "directions", "r", "substeps", "fine")


def _tell(wanted: Wanted, journal: Path) -> None:
    """What is going to be done."""
    if wanted.quiet or not is_first():
        return
    fitted, held_out = wanted.samples
    what = f"fitting {fitted} samples and holding out {held_out}"
    if wanted.many:
        anchors, scales = anchors_of(wanted.nfes), len(wanted.guidances)
        calls = ", ".join(map(str, anchors))
        what += f": {len(anchors) * scales} settings are calibrated ({calls} network calls"
        what += f" at {scales} guidance scales), " if scales > 1 else "), "
        what += f"{(len(wanted.nfes) - len(anchors)) * scales} are filled between them"
    elif isinstance(own := default_settings(wanted.method), IIASettings):
        nfe, cost = wanted.nfes[0], 1 if wanted.guidances == [None] else 2
        substeps = wanted.settings.get("substeps", own.substeps)
        bound = (substeps + 1) * (fitted + held_out) * nfe * cost
        what += f": at most {bound:,} network calls in samples ({substeps} + 1 per sample and call)"
        what += ", then the check at the end"
    elif isinstance(own, GaussNewtonSettings):
        bound = most_calls(wanted.nfes[0], fitted, held_out, replace(own, **wanted.settings))
        cost = 1 if wanted.guidances == [None] else 2
        what += f": at most about {bound * cost:,} network calls in samples"
    console.print(what, highlight=False)
    if journal.exists():
        console.print(f"going on with the calibration that was stopped ({journal})", highlight=False)


def _make_card(wanted: Wanted, model: Model, last: Final, journal: Path) -> Calibration:
    fitted, held_out = wanted.samples
    seeds, guidance = seed_range("calibration", wanted.seed, fitted + held_out), wanted.guidances[0]
    table = base_table(model.schedule, wanted.base, wanted.nfes[0], spacing=wanted.grid, final=last)
    denoiser = model.denoiser(seeds, guidance)
    with progress_bars() as say:
        return calibrate(
            denoiser,
            model.noise(seeds, table.sigmas[0]),
            table,
            method=wanted.method,
            held_out=held_out,
            batch_size=wanted.batch_size,
            model=model.info(guidance),
            seed=wanted.seed,
            journal=journal,
            progress=lambda done, total, what: say(what, done, total),
            **wanted.settings,
        )


def _make_book(wanted: Wanted, model: Model, last: Final, journal: Path) -> CardBook:
    fitted, held_out = wanted.samples
    with progress_bars() as say:
        return calibrate_book(
            model,
            wanted.nfes,
            wanted.guidances,
            seeds=seed_range("calibration", wanted.seed, fitted + held_out),
            held_out=held_out,
            grid=usual_grid(wanted.grid, model.schedule),
            final=last,
            batch_size=wanted.batch_size,
            seed=wanted.seed,
            journal=journal,
            progress=lambda done, total, what: say(what, done, total),
            **wanted.settings,
        )
