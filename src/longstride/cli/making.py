"""What ``longstride calibrate`` does: a card, or a book of several settings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from longstride.book import CardBook
from longstride.calibration import Calibration, calibrate
from longstride.calibration.acceptance.clean_runs import CLEAN_RUNS
from longstride.calibration.anchors import anchors_of
from longstride.calibration.budget import Plan
from longstride.calibration.endpoint.settings import FITTED, HELD_OUT
from longstride.calibration.many import calibrate_book
from longstride.calibration.method import Method, configured
from longstride.calibration.methods import DEFAULT, method_of
from longstride.cli.budgeting import Budget, planned, seconds_per_call
from longstride.cli.common import console, progress_bars, use_device
from longstride.errors import InputError, unknown
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable
from longstride.grid import LastLevel, final_level, spacing_of
from longstride.processes import is_first, join, wait
from longstride.solvers import SOLVERS
from longstride.zoo import Model, load_model

__all__ = ["BATCH_SIZE", "Wanted", "check_settings", "make", "tell_of_journal", "tell_of_plan"]

#: Most samples per network call, and samples of the call that is timed.
BATCH_SIZE, _TIMED = 64, 8


@dataclass(frozen=True)
class Wanted:
    """What was asked for; see the options of ``longstride calibrate``.

    ``None`` stands for the method's own.
    """

    model: str
    out: Path
    method: str | Method
    solver: str | None
    nfes: list[int]
    guidances: list[float | None]
    grid: str
    final: str
    settings: Mapping[str, Any]
    batch: int | None
    held_out: int | None
    batch_size: int | None
    seed: int
    device: str
    quiet: bool
    budget: Budget | None = None
    reference_steps: int = 64
    monitor: int = CLEAN_RUNS

    @property
    def journal(self) -> Path:
        """Where finished batches are kept until the card is written."""
        return self.out.with_name(f".{self.out.name}.unfinished")

    def by(self, plan: Plan) -> Wanted:
        """The same, as a budget's plan has it; options that were given win."""
        return replace(
            self,
            settings={**plan.settings, **self.settings},
            batch=plan.fitted,
            held_out=plan.held_out,
            reference_steps=plan.reference_steps,
            monitor=plan.monitor,
        )

    @property
    def many(self) -> bool:
        """Whether it is a book."""
        return len(self.nfes) > 1 or len(self.guidances) > 1

    @property
    def way(self) -> Method:
        """The method itself.

        Raises:
            InputError: there is no such method.
        """
        return method_of(self.method)

    @property
    def base(self) -> str:
        """The base solver."""
        return self.solver or next(iter(self.way.solvers), "ddim")

    @property
    def samples(self) -> tuple[int, int]:
        """Samples that are fitted, and held out."""
        fitted, held_out = (FITTED, HELD_OUT) if self.many else self.way.counts(self.nfes[0])
        return self.batch or fitted, self.held_out or held_out


def make(wanted: Wanted) -> Calibration | CardBook:
    """Calibrate and write the card, or the book.

    Whatever can be refused without a model is refused before the model is loaded.
    """
    last = _checked(wanted)
    join(wanted.device)
    loaded = load_model(wanted.model, device=use_device(wanted.device))
    for nfe in wanted.nfes:
        base_table(loaded.schedule, wanted.base, nfe, grid=wanted.grid, final=last)
    for scale in wanted.guidances:
        loaded.denoiser(range(1), scale)  # refuses what the model cannot do
    check_writable(wanted.out)
    wanted = _planned(wanted, loaded)
    _tell(wanted)
    done = _make_book(wanted, loaded, last) if wanted.many else _make_card(wanted, loaded, last)
    if is_first():
        (done if isinstance(done, CardBook) else done.card).save(wanted.out)
    wait()
    shutil.rmtree(wanted.journal, ignore_errors=True)  # each process its own, if they share no disk
    return done


def _planned(wanted: Wanted, model: Model) -> Wanted:
    """The same with what its budget buys.

    Raises:
        InputError: the budget is for a book, or too small.
    """
    if wanted.budget is None:
        return wanted
    guidance = wanted.guidances[0]

    def speed() -> float:
        seeds, level = seed_range("calibration", wanted.seed, _TIMED), model.schedule.sigma_range[1] / 2
        return seconds_per_call(model.denoiser(seeds, guidance), model.noise(seeds, level), level)

    plan = planned(wanted.budget, wanted.nfes[0], 1 if guidance is None else 2, speed)
    tell_of_plan(plan, quiet=wanted.quiet)
    return wanted.by(plan)


def tell_of_plan(plan: Plan, *, quiet: bool) -> None:
    """What a budget buys, before it is spent."""
    if not quiet and is_first():
        console.print(f"within the budget: {plan}", highlight=False)


def _checked(wanted: Wanted) -> LastLevel:
    """The last level, once all that needs no model is checked.

    Raises:
        InputError: unknown method, solver or level, settings that the method does not have, or a book by a method that
            makes none.
    """
    way, base = wanted.way, wanted.base
    if base not in SOLVERS:
        raise unknown("base solver", base, SOLVERS)
    if way.solvers and base not in way.solvers:
        raise InputError(
            f"{way.name} is for the base {' or '.join(way.solvers)}, not for {base!r}; --method iia takes any"
        )
    check_settings(wanted)
    configured(way, base, wanted.settings)
    if wanted.many and not way.many:
        raise InputError(f"a book of several settings is made by method {DEFAULT!r}, not by {way.name!r}")
    if wanted.many and wanted.budget is not None:
        raise InputError("a budget is for one number of calls and one guidance scale at a time: drop --budget")
    if wanted.many and wanted.base != "ddim":
        raise InputError("a book starts from every classical solver: drop --solver")
    return final_level(wanted.final)


def check_settings(wanted: Wanted) -> None:
    """Make sure that the method has all settings that were given.

    Raises:
        InputError: unknown method, or settings that it does not have.
    """
    way = wanted.way
    has = [field.name for field in fields(way.settings)]
    if foreign := [name for name in wanted.settings if name not in has]:
        options = " and ".join(f"--{name}" for name in foreign)
        takes = ", ".join(f"--{name}" for name in _OPTIONS if name in has)
        raise InputError(f"method {way.name!r} does not know {options}; of these options it takes {takes}")


#: Options that some methods have and others have not.
_OPTIONS = ("iterations", "rank", "window", "ridge", "directions", "r", "substeps", "fine")


def _tell(wanted: Wanted) -> None:
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
    else:
        per_call = 1 if wanted.guidances == [None] else 2
        settings = configured(wanted.way, wanted.base, wanted.settings)
        known = wanted.budget is not None  # the plan has told it
        cost = "" if known else wanted.way.cost(wanted.nfes[0], fitted, held_out, settings, per_call)
        what += f": {cost}" if cost else ""
    console.print(what, highlight=False)
    tell_of_journal(wanted.journal)


def tell_of_journal(journal: Path) -> None:
    """That a calibration goes on, if an earlier one was stopped."""
    if journal.exists():
        console.print(f"going on with the calibration that was stopped ({journal})", highlight=False)


def _make_card(wanted: Wanted, model: Model, last: LastLevel) -> Calibration:
    fitted, held_out = wanted.samples
    seeds, guidance = seed_range("calibration", wanted.seed, fitted + held_out), wanted.guidances[0]
    table = base_table(model.schedule, wanted.base, wanted.nfes[0], grid=wanted.grid, final=last)
    denoiser = model.denoiser(seeds, guidance)
    with progress_bars() as say:
        return calibrate(
            denoiser,
            model.noise(seeds, table.sigmas[0]),
            table,
            method=wanted.method,
            held_out=held_out,
            reference_steps=wanted.reference_steps,
            monitor=wanted.monitor,
            batch_size=wanted.batch_size or BATCH_SIZE,
            model=model.info(guidance),
            seed=wanted.seed,
            journal=wanted.journal,
            progress=lambda done, total, what: say(what, done, total),
            **wanted.settings,
        )


def _make_book(wanted: Wanted, model: Model, last: LastLevel) -> CardBook:
    fitted, held_out = wanted.samples
    with progress_bars() as say:
        return calibrate_book(
            model,
            wanted.nfes,
            wanted.guidances,
            seeds=seed_range("calibration", wanted.seed, fitted + held_out),
            held_out=held_out,
            spacing=spacing_of(wanted.grid, model.schedule),
            final=last,
            batch_size=wanted.batch_size or BATCH_SIZE,
            seed=wanted.seed,
            journal=wanted.journal,
            progress=lambda done, total, what: say(what, done, total),
            **wanted.settings,
        )
