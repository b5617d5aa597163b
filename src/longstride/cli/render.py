"""Cards, books and results for the terminal: how good they measured, formulas, weights as colours."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from longstride.book import CardBook
from longstride.book_parts import Entry
from longstride.card import Card
from longstride.cli.weights import Heatmap, formulas
from longstride.errors import one_line
from longstride.evaluation.contestants import card_label, label
from longstride.evaluation.results import Line, Results
from longstride.report.comparison import guard_of
from longstride.reports import Errors, Search

__all__ = ["book_summary", "card_summary", "results_table", "shown"]

_HOW = {"calibrated": "green", "filled": "cyan", "filled and refined": "cyan", "base": "yellow"}


def _plain(text: str) -> Text:
    """Text of a card as it is: nothing in it is markup, and nothing speaks to the terminal."""
    return Text(one_line(text))


def _listed(texts: Iterable[str]) -> Text:
    """Texts of a card, one below the other."""
    return Text("\n").join(map(_plain, texts))


def _root(loss: float) -> float:
    """Root of a mean loss; of a file it may be any number."""
    return math.sqrt(max(loss, 0.0))


def shown(document: Card | CardBook) -> list[RenderableType]:
    """What ``longstride show`` prints of a card or a book."""
    if isinstance(document, CardBook):
        return [book_summary(document)]
    return [card_summary(document), formulas(document), Heatmap(document)]


def card_summary(card: Card) -> Panel:
    """What a card is, how good it measured, and how it was found."""
    facts = [card_label(card.method), f"{card.nfe} network calls", f"model {card.model.name}"]
    if card.model.guidance is not None:
        facts.append(f"guidance {card.model.guidance:g}")
    if card.steps:
        facts[0] = f"{card.method} on {card.base.name}"
    parts: list[RenderableType] = [Text(one_line(" · ".join(facts)), style="bold")]
    if card.steps:
        parts.append(_steps(card))
    else:
        parts.append(Text())
    parts += [_errors(card), _verdict(card)]
    if card.search is not None:
        parts += _search(card.search)
    if card.guard is not None:
        parts.append(_plain(f"guard: {guard_of(card)}"))
    if card.end.guard is not None:
        parts.append(_plain(card.end.guard.claim))
    if card.normal is not None:
        parts.append(Text(f"clean runs for a monitor: {card.normal.samples}", style="dim"))
    if card.calls is not None:
        parts.append(Text(f"calibration: {card.calls:,} network calls in samples", style="dim"))
    return Panel(Group(*parts), title=_plain(f"card: {card_label(card.solver)}"), expand=False, padding=(0, 2))


def _steps(card: Card) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("step", "sigma", "error of the base", "calibrated", "kept"):
        table.add_column(name, justify="left" if name in ("step", "sigma") else "right")
    for n, step in enumerate(card.steps, start=1):
        table.add_row(
            str(n),
            f"{step.sigma_from:.4g} → {step.sigma_to:.4g}",
            f"{step.held_out_base_error:.5f}",
            f"{step.held_out_error:.5f}",
            Text("yes", style="green") if step.accepted else Text("no, base kept", style="yellow"),
        )
    return table


def _errors(card: Card) -> Table:
    """Both errors of the base and of the calibrated table, on whole trajectories."""
    end = card.end
    title = f"whole trajectories on {end.samples} held-out samples"
    if end.reference_error is not None:
        title += f"; the reference's own error is about {end.reference_error:.1g}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="")
    table.min_width = len(title) + 1
    table.add_column("error")
    for name in ("RMSE", "median"):
        table.add_column(name, justify="right")
    stability = end.stability
    if stability is not None:
        table.add_column("gain", justify="right")
        table.add_column("largest weights", justify="right")
    base = card.base.name if card.search is None else card.search.base
    for name, errors, others in (
        (f"base: {card_label(card.base.name if base == 'given' else base)}", end.base, ("base_gain", "base_weights")),
        ("calibrated", end.calibrated, ("gain", "weights")),
    ):
        more = [] if stability is None else [f"{getattr(stability, key):.3g}" for key in others]
        table.add_row(_plain(name), f"{errors.rmse:.4f}", f"{errors.median:.4f}", *more)
    style = "green" if end.accepted else "yellow"
    table.add_row("", *(Text(change, style=style) for change in _changes(end.base, end.calibrated)))
    return table


def _changes(before: Errors, after: Errors) -> list[str]:
    pairs = ((before.rmse, after.rmse), (before.median, after.median))
    return [f"{100 * (new / old - 1):+.0f} %" if old > 0 else "" for old, new in pairs]


def _verdict(card: Card) -> Text:
    if card.end.accepted:
        return Text("accepted: it is surely better where no fit looked", style="green")
    reason = one_line(card.end.reason) or "the calibrated rows were worse"
    return Text(f"this card holds the base: {reason}", style="yellow")


def _search(search: Search) -> list[RenderableType]:
    """How a fit of everything together went."""
    parts: list[RenderableType] = [Text()]
    best = list(search.classical.items())[:4]
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim")
    lines.add_column()
    lines.add_row("starts", _listed(f"{error:.4f}  {card_label(name)}" for name, error in best))
    if search.scouts:
        tried = sorted(search.scouts.items(), key=lambda item: item[1])
        lines.add_row("short fits", _listed(f"{_root(value):.4f}  {card_label(name)}" for name, value in tried))
    if search.finals:
        ended = sorted(search.finals.items(), key=lambda item: item[1].score)
        whole = (f"{final.rmse:.4f}  {card_label(name)}, detail {final.detail:.4f}" for name, final in ended)
        lines.add_row("whole fits", _listed([*whole, "(before the last steps)"]))
    lines.add_row("started from", _plain(card_label(search.start)))
    if search.iterations:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("step", min_width=5)
        for name in ("samples", "robust error", "held out", "RMSE", "held out", "damping"):
            table.add_column(name, justify="right", min_width=6)
        for n, step in enumerate(search.iterations):
            robust = [_root(value) for value in (step.objective, step.held_out)]
            numbers = [f"{value:.4f}" for value in (*robust, step.rmse, step.held_out_rmse)]
            table.add_row(
                "start" if n == 0 else str(n), str(step.samples), *numbers, f"{step.damping:.0e}" if n else ""
            )
        parts += [lines, table, Text(one_line(f"stopped: {search.stopped}"), style="dim")]
    else:
        lines.add_row("stopped", _plain(search.stopped))
        parts.append(lines)
    return parts


def book_summary(book: CardBook) -> Panel:
    """All settings of a book, and how good each measured."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("calls", "how", "base", "RMSE", "here", "change"):
        table.add_column(name, justify="left" if name in ("how", "base") else "right", no_wrap=True)
    for n, entry in enumerate(book.entries):
        if entry.guidance is not None and (n == 0 or book.entries[n - 1].guidance != entry.guidance):
            table.add_section()
            table.add_row("", Text(f"guidance {entry.guidance:g}", style="bold"))
        table.add_row(*_entry(entry))
    kept = sum(entry.how == "base" for entry in book.entries)
    note = f"{len(book.entries)} settings on {book.entries[0].card.end.samples} held-out samples each"
    note = f"RMSE to the converged solution; {note}"
    note += f"; {kept} kept the base" if kept else "; each is surely better than its base"
    head = Text(one_line(f"model {book.model.name}"), style="bold")
    return Panel(Group(head, table, Text(note, style="dim")), title="card book", expand=False, padding=(0, 2))


def _entry(entry: Entry) -> list[str | Text]:
    end, search = entry.card.end, entry.card.search
    name = entry.card.base.name if search is None or search.base == "given" else search.base
    held = end.calibrated if entry.how != "base" else end.base
    change = "" if entry.how == "base" else _changes(end.base, end.calibrated)[0]
    return [
        str(entry.nfe),
        Text(entry.how, style=_HOW[entry.how]),
        _plain(name),
        f"{end.base.rmse:.4f}",
        f"{held.rmse:.4f}",
        Text(change, style="green"),
    ]


def results_table(results: Results, measures: Collection[str] = ("rmse", "median", "fd_teacher", "fd_real")) -> Group:
    """The results of a study: samplers down, network calls across, one table per measure.

    Args:
        results: Of the study.
        measures: Which tables to show, of those that were measured.
    """
    study = results.about["study"]
    titles = {
        "rmse": "RMSE to the converged solution",
        "median": "median error per sample",
        "fd_teacher": f"FD ({results.about['features']}, {study['dimensions']} dimensions) to the converged samples",
        "fd_real": f"FD ({results.about['features']}, {study['dimensions']} dimensions) to real pictures",
    }
    parts: list[Table | Text] = []
    for measure, title in titles.items():
        if measure not in measures or not any(line.measure == measure for line in results.lines):
            continue
        table = Table(title=f"{title}, {study['samples']} samples", box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("network calls")
        for nfe in results.nfes:
            table.add_column(str(nfe), justify="right")
        for name in results.contestants:
            lines = [results.value(name, nfe, measure) for nfe in results.nfes]
            table.add_row(label(name), *(Text("") if line is None else _measured(line) for line in lines))
        parts.append(table)
    reference = results.about["reference"]
    note = (
        f"reference: {reference['solver']}, {reference['nfe']} calls, own error about {reference['error']:.2g}; "
        "green: better than its base, bold: by more than the 95 % interval"
    )
    for line in results.lines:
        if line.contestant == "teacher" and line.measure == "fd_teacher":
            note += f"; converged samples from other noise have FD {line.value:.3g}"
        if line.contestant == "teacher" and line.measure == "fd_real" and "fd_real" in measures:
            floor = results.about["real"]["floor"]
            note += f"; to real pictures the converged samples have {line.value:.3g}, real ones {floor:.3g}"
    return Group(*parts, Text(note, style="dim"))


def _measured(line: Line) -> Text:
    better = line.change is not None and line.change < 0
    surely = line.change_high is not None and line.change_high < 0
    return Text(f"{line.value:.3g}", style="bold green" if surely else "green" if better else "")
