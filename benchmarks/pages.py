"""Tables in pages: what stands between ``<!-- name -->`` and ``<!-- /name -->`` is written from results files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.ablation_tables import ablation_sections
from benchmarks.adaptation_table import adaptation_sections
from benchmarks.cost_tables import (
    guard_cost_table,
    launches_table,
    memory_table,
    overhead_table,
    scheduler_table,
    time_table,
)
from benchmarks.guard_table import adversarial_table, guard_table
from benchmarks.guidance_scales import scales_table
from benchmarks.markdown import markdown_table, number
from benchmarks.monitor_table import monitor_sections
from benchmarks.peer_tables import peer_sections
from benchmarks.pipelines.page import pipeline_sections
from benchmarks.recalibration_table import recalibration_table
from benchmarks.reference_levels import levels_table
from benchmarks.rollout_table import rollout_table
from benchmarks.scale_tables import scale_sections
from benchmarks.summary_table import summary_sections
from benchmarks.universal_table import budget_table, ranks_table, starts_table, tails_table, universal_tables
from longstride.errors import InputError
from longstride.evaluation.contestants import label
from longstride.evaluation.results import Line, Results, load_results
from longstride.files import write_atomically

__all__ = ["effect_table", "fill", "verdict", "write_pages", "yardsticks"]

#: Pages that hold measured tables, below the checkout.
PAGES = (
    "README.md",
    "README.ja.md",
    "docs/results.md",
    "docs/calibration.md",
    "docs/iia.md",
    "docs/evaluate.md",
    "docs/peers.md",
    "docs/summary.md",
    "docs/gauss-newton.md",
    "docs/diffusers.md",
    "docs/rollout.md",
    "docs/monitor.md",
    "docs/recalibration.md",
    "docs/adaptation.md",
    "docs/guard.md",
    "docs/pipelines.md",
    "docs/universal.md",
    "docs/scale.md",
)


def write_pages(root: Path, results: Path, *, check: bool = False) -> list[str]:
    """Fill the tables of README and docs from results files.

    Args:
        root: The checkout.
        results: Folder of the results files. Results of other devices have folders of their own. Their names, of
            small letters and digits, come before their markers: ``h100:peers_galaxy_hsc32:full``.
        check: Only compare.

    Returns:
        The pages that said something else.

    Raises:
        InputError: a page that is compared has a marker that no results file is there for.
    """
    sections = _of_folder(results)
    for folder in sorted(path for path in results.glob("*") if path.is_dir()):
        sections |= {f"{folder.name}:{key}": write for key, write in _of_folder(folder).items()}
    return [page for page in PAGES if (root / page).exists() and not fill(root / page, sections, check=check)]


def _of_folder(results: Path) -> dict[str, Callable[[], str]]:
    """What can be said of the results files of a folder, by the names of its markers."""
    sections: dict[str, Callable[[], str]] = {}
    for file in sorted(results.glob("*.json")):
        if file.stem in _FILES:
            sections[file.stem] = partial(_FILES[file.stem], file)
        elif file.stem == "universal":
            sections |= {name: partial(str, text) for name, text in universal_tables(file).items()}
        elif file.stem == "budgets":
            sections |= {"budgets": partial(budget_table, file), "budgets:tails": partial(tails_table, file)}
        elif file.stem == "pipelines":
            sections |= pipeline_sections(file)
        elif file.stem == "monitor":
            sections |= monitor_sections(file)
        elif file.stem == "adaptation":
            sections |= adaptation_sections(file)
        elif file.stem == "scale":
            sections |= scale_sections(file)
        elif file.stem == "summary":
            sections |= summary_sections(file)
        elif file.name.startswith(("ablations_", "newton_")):
            sections |= ablation_sections(file)
        elif not file.stem.endswith("_quality"):
            sections |= _sections(file.stem, file)
    return sections


def _sections(slug: str, file: Path) -> dict[str, Callable[[], str]]:
    """What can be said of one study, by the names of its markers."""
    known: list[Results] = []

    def of(write: Callable[[Results], str]) -> Callable[[], str]:
        def text() -> str:
            if not known:
                known.append(load_results(file))
            return write(known[0])

        return text

    if slug.startswith("peers_"):
        return peer_sections(slug, of)
    return {
        f"{slug}:errors": of(lambda r: effect_table(r, "rmse", beside="median")),
        f"{slug}:fd": of(lambda r: effect_table(r, "fd_teacher")),
        f"{slug}:real": of(lambda r: effect_table(r, "fd_real")),
        f"{slug}:pictures": of(picture_table),
        f"{slug}:yardsticks": of(yardsticks),
        f"{slug}:verdict": of(verdict),
        f"{slug}:verdict-errors": of(lambda r: verdict(r, ("rmse",))),
        f"{slug}:edm": of(lambda r: effect_table(r, "rmse", beside="fd_teacher", only=("heun", "biia_edm", "iia_edm"))),
    }


def picture_table(results: Results) -> str:
    """Contrast, sharpness and neighbours at the least number of calls: what a mean-squared fit costs."""
    measures = ("contrast_ratio", "sharpness_ratio", "saturation_ratio", "precision", "recall", "density", "coverage")
    shown = [m for m in measures if any(line.measure == m for line in results.lines)]
    nfe = min(results.about["study"]["nfes"])
    rows = []
    for name in results.contestants:
        cells = [_at(results, name, nfe, measure) for measure in shown]
        rows.append([label(name), *("–" if c is None else f"{c.value:.2f}" for c in cells)])
    own = {line.measure: line for line in results.lines if line.contestant == "teacher"}
    rows.append([label("teacher"), *(f"{own[m].value:.2f}" if m in own else "1" for m in shown)])
    return markdown_table([f"at {nfe} calls", *(m.replace("_ratio", "") for m in shown)], rows)


#: Tables of results files that hold one table.
_FILES: dict[str, Callable[[Path], str]] = {
    "overhead": overhead_table,
    "scheduler_overhead": scheduler_table,
    "memory": memory_table,
    "calibration_time": time_table,
    "launches": launches_table,
    "adversarial": adversarial_table,
    "guard": guard_table,
    "guidance_scales": scales_table,
    "guard_overhead": guard_cost_table,
    "recalibration": recalibration_table,
    "reference_levels": levels_table,
    "rollouts": rollout_table,
    "ranks": ranks_table,
    "universal_starts": starts_table,
}


def fill(page: Path, sections: Mapping[str, Callable[[], str]], *, check: bool = False) -> bool:
    """Write the sections of a page that it has markers for.

    Args:
        page: A Markdown file.
        sections: Text by name.
        check: Only compare.

    Returns:
        Whether the page already said the same.

    Raises:
        InputError: a page that is compared has a marker that no section is for.
    """
    text = before = page.read_text(encoding="utf-8")
    names = re.findall(r"<!-- ([a-z0-9_:-]+) -->", text)
    for name in names:
        if name not in sections and not check:
            continue  # its results are not there yet
        if name not in sections:
            raise InputError(f"{page.name} has a marker <!-- {name} --> that nothing is written for")
        marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?\n?(<!-- /{re.escape(name)} -->)", re.DOTALL)
        body = sections[name]()
        text = marked.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)  # type: ignore[misc]
    if not check and text != before:
        write_atomically(page, text.encode())
    return text == before


def _columns(results: Results) -> list[int]:
    """Calls of the columns."""
    return sorted(results.about["study"]["nfes"])


def _at(results: Results, name: str, nfe: int, measure: str) -> Line | None:
    """The line at ``nfe`` calls, or at one call less if the solver cannot spend ``nfe``."""
    asked = results.about["study"]["nfes"]
    found = results.value(name, nfe, measure)
    return found or (None if nfe - 1 in asked else results.value(name, nfe - 1, measure))


def effect_table(results: Results, measure: str, *, beside: str | None = None, only: Iterable[str] = ()) -> str:
    """A line per sampler, a column per number of calls.

    Bold: better than the base by more than the 95 % interval of the difference; italic: worse by more.

    Args:
        results: A study's.
        measure: What the cells show.
        beside: A second measure in brackets.
        only: Samplers to show; default: all.
    """
    columns = _columns(results)
    rows, chosen = [], tuple(only)
    for name in (n for n in results.contestants if not chosen or n in chosen):
        cells = []
        for nfe in columns:
            line, second = _at(results, name, nfe, measure), _at(results, name, nfe, beside or measure)
            if line is None or second is None:
                cells.append("–")
                continue
            text = number(line.value) + (f" ({number(second.value)})" if beside else "")
            text = _mark(text, line)
            cells.append(text if line.nfe == nfe else f"{text} at {line.nfe}")
        rows.append([label(name), *cells])
    return markdown_table(["network calls", *columns], rows)


def _mark(text: str, line: Line) -> str:
    if line.change_high is not None and line.change_high < 0:
        return f"**{text}**"
    if line.change_low is not None and line.change_low > 0:
        return f"*{text}*"
    return text


def yardsticks(results: Results) -> str:
    """What the Fréchet distances must be read against."""
    study = results.about["study"]
    found = {line.measure: line for line in results.lines if line.contestant == "teacher"}
    text = (
        f"{study['samples']} samples, grid `{study['grid']}`, reference {results.about['reference']['nfe']} calls of "
        f"UniPC-3 (own error about {results.about['reference']['error']:.4f}). FD ({results.about['features']}, "
        f"{study['dimensions']} principal components): converged samples from other noise are "
        f"{found['fd_teacher'].value:.2f} from the converged samples"
    )
    if "fd_real" in found:
        floor = results.about["real"]["floor"]
        text += (
            f"; to real pictures ({results.about['real']['source']}) the converged samples themselves have "
            f"{found['fd_real'].value:.1f}, and {results.about['real']['floor_samples']:,} other real ones {floor:.1f}"
        )
    return text + "."


def verdict(results: Results, measures: Iterable[str] = ("rmse", "fd_teacher")) -> str:
    """Where a calibrated sampler is not better than its base by more than the interval, in words."""
    exceptions, total = [], 0
    for measure in measures:
        for line in results.lines:
            if line.measure != measure or line.change is None:
                continue
            total += 1
            if line.change_high is not None and line.change_high < 0:
                continue
            what = "worse" if line.change_low is not None and line.change_low > 0 else "no difference"
            if line.change == 0:
                what = "the gate kept the base"
            change = f"{number(line.value - line.change)} → {number(line.value)}"
            exceptions.append((label(line.contestant), line.nfe, _SHORT[measure], change, what))
    better = f"{total - len(exceptions)} of {total} comparisons are better than the base outside the 95 % interval"
    if not exceptions:
        return better + "."
    head = ("sampler", "calls", "measure", "base → calibrated", "")
    return f"{better}. The others:\n\n{markdown_table(head, exceptions)}"


_SHORT = {"rmse": "RMSE", "median": "median", "fd_teacher": "FD to the teacher", "fd_real": "FD to real"}
