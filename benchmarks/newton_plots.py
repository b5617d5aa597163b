"""What the default calibration costs, and how many samples it needs: two plots, from results files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.evaluation.results import load_results
from longstride.parameters import Parameters
from longstride.plots.style import BASE, CURVES, GREY, OURS, log_axes, new_figure, save_figure, styled

__all__ = ["cost", "draw_cost", "draw_newton_plots", "draw_samples"]

Array = NDArray[np.float64]

#: Label and look of each way to start.
_WAYS = {
    "none": ("no prior", BASE),
    "ridge 1e-06": ("prior as a start", CURVES[0]),
    "ridge 0.01": ("prior as a start and a pull", CURVES[1]),
}


def draw_newton_plots(results: Path, pictures: Path) -> list[Path]:
    """Draw what there are results for.

    Args:
        results: Folder of the results files.
        pictures: Where the plots go.

    Returns:
        The plots.
    """
    drawn: list[Path] = []
    pictures.mkdir(parents=True, exist_ok=True)
    for file in sorted(results.glob("newton_*.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))["ablations"].get("samples")
        if rows:
            drawn.append(pictures / f"{file.stem}_samples.png")
            draw_samples(rows, drawn[-1])
    for file in sorted(results.glob("peers_*.json")):
        found = load_results(file).about["search"]
        calls = {nfe: found[f"gauss_newton-{nfe}"] for nfe in range(1, 100) if f"gauss_newton-{nfe}" in found}
        if len(calls) > 3:
            drawn.append(pictures / f"{file.stem}_cost.png")
            draw_cost(calls, drawn[-1])
    return drawn


@styled
def draw_samples(rows: list[dict[str, Any]], path: Path) -> None:
    """RMSE on fresh noise against the number of samples that are fitted, with and without a prior.

    Args:
        rows: Records of the question ``samples``.
        path: PNG file.
    """
    figure, ((ax,),) = new_figure(4.6, 3.2)
    for way, (label, look) in _WAYS.items():
        mine = sorted((row for row in rows if row["prior"] == way), key=lambda row: int(row["batch"]))
        if mine:
            counts, errors = [row["batch"] for row in mine], [row["rmse"] for row in mine]
            ax.plot(counts, errors, label=label, **look.curve)
    base = float(np.mean([row["base_rmse"] for row in rows]))
    ax.axhline(base, color=GREY, lw=0.8, zorder=0)
    ax.annotate(
        "best classical solver", (1, base), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    log_axes(ax, sorted({row["batch"] for row in rows}))
    ax.set_xlabel("samples that are fitted")
    ax.set_ylabel(f"RMSE to the converged solution\nat {rows[0]['nfe']} network calls")
    ax.legend()
    save_figure(figure, path)


def cost(calls: dict[int, dict[str, Any]]) -> tuple[Array, Array]:
    """Network calls of calibrations, in all and per number that is fitted, in the order of the sampler's calls.

    Args:
        calls: What was recorded of each search, by the calls of the sampler.
    """
    own, nfes = GaussNewtonSettings(), sorted(calls)
    total = np.array([calls[nfe]["calls"] for nfe in nfes], np.float64)
    fitted = [len(Parameters(nfe, levels=own.levels, column=own.column, window=own.window)) for nfe in nfes]
    return total, total / fitted


@styled
def draw_cost(calls: dict[int, dict[str, Any]], path: Path) -> None:
    """:func:`cost` against the calls of the sampler.

    Args:
        calls: As there.
        path: PNG file.
    """
    nfes, found = sorted(calls), cost(calls)
    figure, (axes,) = new_figure(7.2, 3.0, 1, 2)
    for ax, values, title in zip(axes, found, ("in all", "per unknown"), strict=True):
        ax.plot(nfes, values, **OURS.curve)
        slope = np.polyfit(np.log(nfes), np.log(values), 1)[0]
        ax.set_title(f"{title}: grows like NFE^{slope:.1f}")
        log_axes(ax, nfes)
        ax.set_ylim(min(values) / 1.6, max(values) * 1.6)
        ax.set_xlabel("network calls of the sampler (NFE)")
    axes[0].set_ylabel("network calls of the calibration,\nin samples")
    save_figure(figure, path)
