"""Tables of a study's results for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from longstride.evaluation.contestants import label
from longstride.evaluation.results import Line, Results

__all__ = ["results_table"]


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
