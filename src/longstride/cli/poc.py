"""The command ``longstride poc``: one page for people who decide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from longstride.book import load_book
from longstride.cli.common import console, handled, progress_bars, use_device
from longstride.cli.options import QUALITY, Device, Guidance, Json, Seed, option
from longstride.cli.unread import refuse_unread
from longstride.cli.written import numbers_of
from longstride.errors import InputError
from longstride.files import check_writable, write_atomically
from longstride.processes import is_first, join
from longstride.report import (
    FULL,
    QUICK,
    Asked,
    Decision,
    Figures,
    Outcome,
    card_name,
    decide,
    figures_of,
    headline_of,
    load_language,
    load_outcome,
    plan_of,
    reason_of,
    recommendation_of,
    run_poc,
    write_page,
)
from longstride.report.language import languages
from longstride.zoo import Model, load_model

__all__ = ["poc"]

_MONEY = "Money"
#: Marks of reasons for adoption, against it, and to watch.
_MARKS = {1: "+", 0: "!", -1: "-"}


@handled
def poc(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="garments, galaxy:hsc32, a diffusers folder, or a hub id such as google/ddpm-cifar10-32.",
            metavar="MODEL",
        ),
    ] = None,
    out: Annotated[Path, option("The page; what it is made of stands beside it, in a folder.", "FILE.html")] = Path(
        "report.html"
    ),
    lang: Annotated[str, option(f"Language of the page: {', '.join(languages())}.", "LANGUAGE")] = "en",
    nfe: Annotated[
        str | None, option("Network calls to calibrate, with commas; 4,5,6,8, with --quick 5,8.", "CALLS")
    ] = None,
    today_sampler: Annotated[str, option("The classical solver that is in use now.", "NAME")] = "dpmpp_2m",
    today_nfe: Annotated[int, option("Its network calls.", "CALLS", min=2)] = 20,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few samples: minutes. The page says what that cannot show.")
    ] = False,
    outcome: Annotated[
        Path | None, typer.Option("--from", help="Make the page again from an outcome.json.", metavar="FILE")
    ] = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    # Money
    price_per_hour: Annotated[float | None, option("Price of an hour of this device.", "PRICE", _MONEY, min=0)] = None,
    images_per_month: Annotated[float | None, option("Pictures per month.", "N", _MONEY, min=0)] = None,
    currency: Annotated[str | None, option("Currency, such as EUR, USD, JPY; default: EUR.", "CODE", _MONEY)] = None,
    # Quality and cost
    samples: Annotated[int | None, option("Evaluation samples; 1024, with --quick 160.", "N", QUALITY, min=16)] = None,
) -> None:
    """Calibrate a model, measure it on noise that calibration did not see, and write one page for people who decide.

    The page recommends by a rule that is written on it: adopt, adopt with monitoring, or do not adopt. It is one file
    that loads nothing. The same command goes on after a kill.
    """
    language = load_language(lang)
    refuse_unread(ctx, ["outcome"] if outcome is not None else [])
    if (model is None) == (outcome is None):
        raise InputError("name a model, or an earlier outcome with --from")
    folder = out.with_name(f"{out.stem}.files")
    check_writable(out, new_folders=True)
    figures = {
        "price_per_hour": price_per_hour or None,
        "images_per_month": images_per_month or None,
        "currency": currency,
    }
    if outcome is not None:
        found, folder = load_outcome(outcome).with_figures(**figures), outcome.parent
    else:
        asked = _asked(model or "", nfe, today_sampler, today_nfe, quick, samples, guidance, seed)
        found = _measured(asked, folder, device, figures_of(Figures(), **figures))
    if not is_first():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    decision = write_page(found, out, language, _written(folder))
    if as_json:
        facts = [{"code": one.code, "speaks": one.speaks, "text": reason_of(one, language)} for one in decision.reasons]
        told = {"recommendation": decision.recommendation.value, "calls": decision.calls}
        print(json.dumps({**told, "headline": headline_of(decision.headline, language), "reasons": facts}))
        return
    console.print(f"[bold]{recommendation_of(decision.recommendation, language)}.[/] ", end="")
    console.print(headline_of(decision.headline, language), highlight=False, markup=False)
    for one in decision.reasons:
        console.print(f"{_MARKS[one.speaks]} {reason_of(one, language)}", highlight=False, markup=False)
    print(f"written to {out}; cards, numbers and finished work in {folder}")


def _written(folder: Path) -> str:
    """A folder as commands on the page name it: no path of this machine."""
    return folder.name or "."


def _asked(
    model: str,
    nfe: str | None,
    today: str,
    today_nfe: int,
    quick: bool,
    samples: int | None,
    guidance: float | None,
    seed: int,
) -> Asked:
    effort = QUICK if quick else FULL
    effort = effort if samples is None else replace(effort, samples=samples)
    nfes = numbers_of(nfe or ("5,8" if quick else "4,5,6,8"))
    return Asked(model, nfes, today, today_nfe, effort, quick, guidance, seed)


def _measured(asked: Asked, folder: Path, device: str, figures: Figures) -> Outcome:
    """Measure; write the recommended card and its plan."""
    join(device)
    loaded = _loaded(asked.model, use_device(device))
    with progress_bars() as say:
        found = run_poc(loaded, asked, folder, figures, say=say)
    if is_first():
        _keep(found, decide(found), folder)
    return found


def _loaded(name: str, device: str) -> Model:
    """The network; of a whole pipeline that is more than a network, what to do instead."""
    try:
        return load_model(name, device=device)
    except InputError as error:
        if not (Path(name).expanduser() / "model_index.json").is_file():
            raise
        raise InputError(
            f"poc measures networks, and this is a whole pipeline: make a card with longstride calibrate {name} "
            f"--pipeline, and measure it with longstride evaluate {name} --pipeline --card ({error})"
        ) from None


def _keep(found: Outcome, decision: Decision, folder: Path) -> None:
    """If something is to be adopted, write its card and its plan."""
    plan = plan_of(found, decision)
    if plan is None or decision.calls is None:
        return
    entry = load_book(folder / "cards.json").entry(decision.calls, found.subject.guidance)
    assert entry is not None
    entry.card.save(folder / card_name(decision.calls))
    write_atomically(folder / "rollout.json", (json.dumps(plan, indent=1) + "\n").encode())
