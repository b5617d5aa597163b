"""Tables of the benchmark against peers, as Markdown, from its results files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.markdown import markdown_table, number
from longstride.calibration.starts.classical import CLASSICAL
from longstride.evaluation.contestants import label
from longstride.evaluation.results import Results

__all__ = ["peer_sections"]

#: Names of this package's samplers, in the order of the tables.
_OURS = {
    name: f"**{label(name)}**" if name == "gauss_newton" else label(name)
    for name in ("gauss_newton", "gauss_newton_full", "global", "iia_ddim", "iia_ipndm", "iia_dpmpp_2m")
}
_CLASSICAL = {name: label(name) for name in (*CLASSICAL, "heun")}
#: Samplers of the README's table.
_SHORT = (
    "ddim",
    "dpmpp_2m",
    "unipc3",
    "heun",
    "iia_dpmpp_2m",
    "gits",
    "dc_solver",
    "dpm_solver_v3",
    "ld3",
    "s4s",
    "gs",
    "gauss_newton",
)


def peer_sections(
    slug: str, of: Callable[[Callable[[Results], str]], Callable[[], str]]
) -> dict[str, Callable[[], str]]:
    """What can be said of one network, by the names of its markers.

    Args:
        slug: Name of the results file.
        of: Gives a section's function the results.
    """
    return {
        f"{slug}:short": of(lambda r: contest_table(r, "rmse", "fd_teacher", _SHORT)),
        f"{slug}:rmse": of(lambda r: contest_table(r, "rmse", "median")),
        f"{slug}:fd": of(lambda r: contest_table(r, "fd_teacher", None)),
        f"{slug}:ratios": of(ratio_table),
        f"{slug}:instead": of(instead_table),
        f"{slug}:cost": of(cost_table),
        f"{slug}:full": of(full_table),
        f"{slug}:growth": of(growth_table),
        f"{slug}:yardstick": of(yardstick),
    }


def names(results: Results) -> dict[str, str]:
    """Labels of all samplers by name: classical solvers first, then peers, then this package's."""
    peers = {name: label for name, label in results.about.get("labels", {}).items() if name not in _OURS}
    known = {**_CLASSICAL, **peers, **{name: _OURS[name] for name in reversed(_OURS)}}
    return {name: label for name, label in known.items() if name in results.contestants}


def _fitted(results: Results) -> list[int]:
    """Numbers of calls that the fit was made for; at others there are only yardsticks."""
    return [nfe for nfe in results.nfes if results.value("gauss_newton", nfe, "rmse") is not None]


def instead_table(results: Results) -> str:
    """The least number of calls at which the fit is as good as a classical solver with more, by error and by FD."""
    rows = []
    for name, nfe in (("ddim", 50), ("ddim", 20), ("dpmpp_2m", 10), ("unipc3", 10)):
        cells = []
        for measure in ("rmse", "median", "fd_teacher"):
            goal = results.value(name, nfe, measure)
            ours = {n: results.value("gauss_newton", n, measure) for n in _fitted(results)}
            enough = [n for n, line in ours.items() if goal and line and line.value <= goal.value]
            cells.append("–" if goal is None else min(enough, default=f"more than {max(ours, default=0)}"))
        rows.append([f"{_CLASSICAL[name]}, {nfe} calls", *cells])
    return markdown_table(["as good as", "RMSE", "median", "FD"], rows)


def contest_table(results: Results, measure: str, beside: str | None, only: Iterable[str] = ()) -> str:
    """A line per sampler, a column per number of calls; the least of every column is bold, equal ones within 1 %.

    Args:
        results: The benchmark's.
        measure: What the cells show.
        beside: A second measure in brackets.
        only: Samplers to show; default: all.
    """
    chosen = tuple(only)
    labels = {name: label for name, label in names(results).items() if not chosen or name in chosen}
    nfes = _fitted(results)
    found = {name: [results.value(name, nfe, measure) for nfe in nfes] for name in labels}
    least = [min((line.value for name in labels if (line := found[name][n])), default=0.0) for n in range(len(nfes))]
    rows = []
    for name, text in labels.items():
        cells = []
        for n, nfe in enumerate(nfes):
            line, second = found[name][n], results.value(name, nfe, beside) if beside else None
            cell = "–" if line is None else number(line.value) + (f" ({number(second.value)})" if second else "")
            cells.append(f"**{cell}**" if line is not None and line.value <= 1.01 * least[n] else cell)
        rows.append([text, *cells])
    return markdown_table(["network calls", *nfes], rows)


def ratio_table(results: Results) -> str:
    """The fit over the best classical solver on its best grid, for each measure."""
    rows = []
    for nfe in _fitted(results):
        cells: list[Any] = [nfe]
        for measure in ("rmse", "median", "fd_teacher"):
            ours = results.value("gauss_newton", nfe, measure)
            lines = [(line.value, name) for name in _CLASSICAL if (line := results.value(name, nfe, measure))]
            value, name = min(lines, default=(0.0, ""))
            cells.append("–" if ours is None or not lines else f"{ours.value / value:.2f} ({_CLASSICAL[name]})")
        rows.append(cells)
    return markdown_table(["network calls", "RMSE", "median", "FD"], rows)


def cost_table(results: Results) -> str:
    """What each search took, at the number of network calls that most of them were run at."""
    labels = {name: label for name, label in names(results).items() if name not in _CLASSICAL}
    ran = {nfe: sum(f"{name}-{nfe}" in results.about["search"] for name in labels) for nfe in _fitted(results)}
    nfe = max(ran, key=lambda nfe: (ran[nfe], nfe), default=0)
    rows = []
    for name, text in labels.items():
        about = results.about["search"].get(f"{name}-{nfe}")
        if about is not None:
            rows.append([text, "yes" if about.get("backward") else "no", *_cost(about)])
    return markdown_table([f"search at {nfe} calls", "backprop", *_COST], rows)


_COST = ("network calls in samples", "seconds", "memory, MiB")


def _cost(about: Mapping[str, Any]) -> tuple[str, str, str]:
    memory = about["memory_mib"]
    return f"{about['calls']:,.0f}", f"{about['seconds']:.0f}", "–" if memory is None else f"{memory:.0f}"


def full_table(results: Results) -> str:
    """The fit beside peers that learn by backprop with their full schedules: quality and cost."""
    search, rows = results.about["search"], []
    labels = {key: text for key, text in names(results).items() if key.endswith("_full") or key == "gauss_newton"}
    for nfe in _fitted(results):
        there = [name for name in labels if f"{name}-{nfe}" in search]
        for name in there if len(there) > 1 else ():
            lines = [results.value(name, nfe, measure) for measure in ("rmse", "median", "fd_teacher")]
            quality = ["–" if line is None else number(line.value) for line in lines]
            rows.append([nfe, labels[name], *quality, *_cost(search[f"{name}-{nfe}"])])
    return markdown_table(["network calls", "", "RMSE", "median", "FD", *_COST], rows)


def growth_table(results: Results) -> str:
    """What the fit takes at each number of calls."""
    search = results.about["search"]
    rows = [(nfe, *_cost(search[f"gauss_newton-{nfe}"])) for nfe in _fitted(results)]
    return markdown_table(["calls of the sampler", *_COST], rows)


def yardstick(results: Results) -> str:
    """What was measured on how much, and how far two sets of converged samples are apart."""
    study, about = results.about["study"], results.about["reference"]
    own = next(line.value for line in results.lines if line.contestant == "teacher" and line.measure == "fd_teacher")
    return (
        f"{study['samples']} fresh samples, {study['calibration_samples']} for calibration; reference {about['nfe']} "
        f"calls of UniPC-3 (own error {about['error']:.4f}). Converged samples from other noise have FD {own:.2f}."
    )
