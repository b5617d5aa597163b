"""The commands ``longstride rollout``: start, look at, promote and roll back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from longstride.cli.common import Command, Group, console, handled
from longstride.cli.options import Json, option
from longstride.errors import InputError
from longstride.rollout import METRICS, STAGES, Decision, Rollout, Stage, Standing

__all__ = ["rollout"]

rollout = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Put a card before real traffic: stages, live comparisons, promotion and rollback.",
)

StoreFile = Annotated[Path, typer.Argument(help="File of the roll-out, shared with the service.", metavar="STORE")]
Reason = Annotated[str, option("For the log.", "TEXT")]
_STYLE = {"running": "bold", "complete": "bold green", "rolled back": "bold yellow"}


def _stages(written: str | None, requests: int | None) -> tuple[Stage, ...]:
    """The default stages; for other shares, each with the evidence of the first default stage that is as large."""
    chosen: tuple[Stage, ...] = STAGES
    if written is not None:
        try:
            shares = [float(part.strip().removesuffix("%")) / 100 for part in written.split(",")]
        except ValueError:
            raise InputError(f"--stages {written!r} is no list of per cents such as 1,10,50,100") from None
        if not all(0 < share <= 1 for share in shares):
            raise InputError(f"--stages are per cents above 0 and up to 100, got {written!r}")
        models = [next(stage for stage in STAGES if stage.share >= share) for share in shares]
        chosen = tuple(stage.model_copy(update={"share": s}) for stage, s in zip(models, shares, strict=True))
    return chosen if requests is None else tuple(stage.model_copy(update={"requests": requests}) for stage in chosen)


@rollout.command(cls=Command, epilog="Example: longstride rollout start rollout.db --new new.json --old card.json")
@handled
def start(
    store: StoreFile,
    new: Annotated[Path, option("The new card or book.", "CARD")],
    old: Annotated[Path | None, option("The card that answers now; default: the classical solver.", "CARD")] = None,
    stages: Annotated[str | None, option("Per cents of the traffic; default: 1,10,50,100.", "LIST")] = None,
    requests: Annotated[int | None, option("Fewest requests by the new card in every stage.", "N", min=0)] = None,
    base_share: Annotated[
        float, option("Per cent of the traffic that the classical solver keeps beside --old.", "PERCENT", min=0, max=99)
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Start a roll-out, in a new store or after the last one has ended. The service asks the same file."""
    with Rollout.start(store, new, old=old, stages=_stages(stages, requests), base_share=base_share / 100) as started:
        _show(started, as_json)


@rollout.command(cls=Command, epilog="Example: longstride rollout status rollout.db --log")
@handled
def status(
    store: StoreFile,
    log: Annotated[bool, typer.Option("--log", help="Every decision so far.")] = False,
    as_json: Json = False,
) -> None:
    """Show the stage, who answers, how the new card compares, and what the next stage waits for."""
    with Rollout(store) as opened:
        _show(opened, as_json, log=log)


@rollout.command(cls=Command, epilog="Example: longstride rollout promote rollout.db --reason 'looks fine'")
@handled
def promote(store: StoreFile, reason: Reason = "no reason given", as_json: Json = False) -> None:
    """Go to the next stage, or end after the last one, whatever the evidence says."""
    with Rollout(store) as opened:
        opened.promote(reason)
        _show(opened, as_json)


@rollout.command(cls=Command, epilog="Example: longstride rollout rollback rollout.db --reason 'odd colours'")
@handled
def rollback(
    store: StoreFile,
    to: Annotated[str | None, option("Arm that answers from then on; default: the one before.", "ARM")] = None,
    reason: Reason = "no reason given",
    as_json: Json = False,
) -> None:
    """Withdraw the new card; in effect with the next request of every process."""
    with Rollout(store) as opened:
        opened.rollback(reason, to=to)
        _show(opened, as_json)


def _show(opened: Rollout, as_json: bool, *, log: bool = False) -> None:
    standing = opened.status()
    decisions = opened.log() if log or as_json else [standing.last]
    if as_json:
        print(json.dumps({**standing.as_dict(), "log": [asdict(decision) for decision in decisions]}))
        return
    console.print(Lines(_head(standing), _arms(standing), *_comparisons(standing), *_rest(standing, decisions)))


def _head(standing: Standing) -> Text:
    where = f", stage {standing.stage + 1} of {len(standing.stages)}"
    ladder = " → ".join(f"{100 * share:g} %" for share in standing.stages)
    return Text.assemble((standing.status, _STYLE[standing.status]), where, (f" ({ladder})", "dim"))


def _arms(standing: Standing) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    for name in ("share", "requests", "flagged", "drift", "NaN", "seconds", "mean error"):
        table.add_column(name, justify="right")
    for name, share in standing.shares.items():
        counts, error = standing.counts[name], standing.mean_errors.get(name)
        n = max(1, counts.requests)
        style = "dim" if name in standing.withdrawn else ""
        table.add_row(
            name,
            f"{100 * share:g} %",
            str(counts.requests),
            f"{100 * counts.flagged / n:.2g} %",
            f"{100 * counts.drift / n:.2g} %",
            str(counts.non_finite),
            f"{counts.seconds / n:.3g}",
            "" if error is None else f"{error.value:.3g} ({error.lower:.2g}–{error.upper:.2g})",
            style=style,
        )
    return table


def _comparisons(standing: Standing) -> list[Table]:
    seen = {name: found for name, found in standing.comparisons.items() if found.pairs}
    if not seen:
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"new against {standing.control}", title_justify="left")
    table.add_column("")
    for name in ("value", "surely", "back at", "pairs"):
        table.add_column(name, justify="right")
    for name, found in seen.items():
        metric = METRICS[name]
        low, high = (metric.number(end) for end in (found.lower, found.upper))
        table.add_row(
            metric.what,
            "–" if found.value is None else metric.number(found.value),
            f"{low} to {high}",
            metric.number(found.tolerance),
            str(found.pairs),
        )
    return [table]


def _rest(standing: Standing, decisions: list[Decision]) -> list[Text]:
    lines = [Text.assemble(("waits for ", "dim"), what) for what in standing.waiting]
    for decision in decisions:
        who = "" if decision.by == "itself" else ", by hand"
        head = f"{decision.number}. {decision.action}, stage {decision.stage + 1}{who}: "
        lines.append(Text.assemble((head, "bold" if decision is decisions[-1] else ""), decision.reason))
    return lines
