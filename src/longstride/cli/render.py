"""Tables for the terminal: study results, cards, formulas, heatmaps."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from longstride.card import Card
from longstride.evaluation.contestants import label
from longstride.evaluation.results import Line, Results
from longstride.table import Row

__all__ = ["card_summary", "formulas", "heatmap", "results_table"]


def results_table(results: Results) -> Group:
    """The results of a study: samplers down, network calls across, one table per measure."""
    study = results.about["study"]
    titles = {
        "rmse": "RMSE to the converged solution",
        "median": "median error per sample",
        "fd_teacher": f"FD ({results.about['features']}, {study['dimensions']} dimensions) to the converged samples",
        "fd_real": f"FD ({results.about['features']}, {study['dimensions']} dimensions) to real pictures",
    }
    parts: list[Table | Text] = []
    for measure, title in titles.items():
        if not any(line.measure == measure for line in results.lines):
            continue
        table = Table(title=f"{title}, {study['samples']} samples", box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("network calls")
        for nfe in results.nfes:
            table.add_column(str(nfe), justify="right")
        for name in results.contestants:
            lines = [results.value(name, nfe, measure) for nfe in results.nfes]
            table.add_row(label(name), *(Text("") if line is None else _cell(line) for line in lines))
        parts.append(table)
    reference = results.about["reference"]
    note = (
        f"reference: {reference['solver']}, {reference['nfe']} calls, own error about {reference['error']:.2g}; "
        "green: better than its base, bold: by more than the 95 % interval"
    )
    for line in results.lines:
        if line.contestant == "teacher" and line.measure == "fd_teacher":
            note += f"; converged samples from other noise have FD {line.value:.3g}"
        if line.contestant == "teacher" and line.measure == "fd_real":
            floor = results.about["real"]["floor"]
            note += f"; to real pictures the converged samples have {line.value:.3g}, real ones {floor:.3g}"
    return Group(*parts, Text(note, style="dim"))


def _cell(line: Line) -> Text:
    better = line.change is not None and line.change < 0
    surely = line.change_high is not None and line.change_high < 0
    return Text(f"{line.value:.3g}", style="bold green" if surely else "green" if better else "")


def card_summary(card: Card) -> Panel:
    """What a card is and how good it measured."""
    end, steps = card.end, card.steps
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("step", "sigma", "error of the base", "calibrated", "kept"):
        table.add_column(name, justify="left" if name in ("step", "sigma") else "right")
    for n, step in enumerate(steps, start=1):
        table.add_row(
            str(n),
            f"{step.sigma_from:.4g} → {step.sigma_to:.4g}",
            f"{step.held_out_base_error:.5f}",
            f"{step.held_out_error:.5f}",
            Text("yes", style="green") if step.accepted else Text("no, base kept", style="yellow"),
        )
    guidance = "" if card.model.guidance is None else f", guidance {card.model.guidance:g}"
    verdict = (
        f"whole trajectories on {end.samples} held-out samples: RMSE {end.base.rmse:.4f} → {end.calibrated.rmse:.4f}, "
        f"median {end.base.median:.4f} → {end.calibrated.median:.4f}"
    )
    kept = "" if end.accepted else "\nthe calibrated rows were worse there: this card holds the base solver's"
    head = f"{card.method} on {card.base.name}, {card.nfe} network calls, model {card.model.name}{guidance}"
    return Panel(
        Group(Text(head), table, Text(verdict + kept)),
        title=Text(f"card: {label(card.solver)}"),
        expand=False,
    )


def formulas(card: Card) -> Table:
    """One line per row: the state it makes, from earlier states ``x`` and clean predictions ``D``."""
    solver = card.table
    table = Table(title="formulas", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("sigma", justify="right")
    table.add_column("state")
    for k, row in enumerate(solver.rows, start=1):
        table.add_row(f"{solver.sigmas[k]:.4g}", f"x{k} = {_formula(row)}")
    return table


def _formula(row: Row) -> str:
    terms = [(w, f"x{i}") for i, w in sorted(row.states.items(), reverse=True)]
    terms += [(w, f"D{j}") for j, w in sorted(row.outputs.items(), reverse=True)]
    text = " ".join(f"{'-' if w < 0 else '+'} {abs(w):.4g} {name}" for w, name in terms)
    return text.removeprefix("+ ")


def heatmap(card: Card) -> Group:
    """The normal form as colours: blue for positive weights, red for negative ones."""
    form = np.column_stack([card.table.a, card.table.b])[1:]
    largest = float(np.abs(form).max())
    lines = [Text("normal form: weight of x0 and of every clean prediction D in each state", style="italic")]
    lines.append(Text("      " + "".join(f"{name:>8}" for name in ("x0", *(f"D{j}" for j in range(card.nfe))))))
    for k, weights in enumerate(form, start=1):
        line = Text(f"x{k:<5}")
        for j, weight in enumerate(weights):
            if j > k:
                line.append(" " * 8)
                continue
            strength = int(255 - 175 * min(1.0, abs(float(weight)) / largest) ** 0.5)
            color = f"rgb({strength},{strength},255)" if weight >= 0 else f"rgb(255,{strength},{strength})"
            line.append(f"{weight:>8.3f}", style=f"black on {color}")
        lines.append(line)
    return Group(*lines)
