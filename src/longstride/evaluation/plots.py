"""Pictures: grids of samples, labelled comparisons, and error curves that are legible in grey."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from longstride.files import write_atomically

__all__ = ["LABELS", "comparison", "error_curves", "picture_grid", "to_pixels"]

#: How solvers are written in plots and tables.
LABELS = {
    "ddim": "DDIM",
    "iia_ddim": "IIA-DDIM",
    "spndm": "S-PNDM",
    "iia_spndm": "IIA-SPNDM",
    "ipndm": "iPNDM",
    "iia_ipndm": "IIA-IPNDM",
    "dpmpp_2m": "DPM-Solver++ 2M",
    "dpmpp_3m": "DPM-Solver++ 3M",
    "unipc": "UniPC-3",
    "reference": "converged",
}
_STYLES = {
    "ddim": ("#555555", "o", "--"),
    "iia_ddim": ("#c1121f", "o", "-"),
    "spndm": ("#888888", "s", "--"),
    "iia_spndm": ("#e07a1f", "s", "-"),
    "ipndm": ("#aaaaaa", "^", "--"),
    "iia_ipndm": ("#1f6fb2", "^", "-"),
    "dpmpp_2m": ("#2f2f2f", "x", ":"),
    "unipc": ("#2f2f2f", "+", "-."),
}


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """8-bit pictures ``(B, H, W, 3)`` of tensors ``(B, 1 or 3, H, W)`` in [-1, 1]."""
    scaled = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def _save_png(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def picture_grid(images: Tensor, path: Path, *, columns: int, scale: int = 1) -> None:
    """Write pictures ``(B, 1 or 3, H, W)`` in [-1, 1] as one PNG, row by row, each pixel ``scale`` wide."""
    pixels = to_pixels(images)
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for n, picture in enumerate(pixels):
        top, left = n // columns * height, n % columns * width
        sheet[top : top + height, left : left + width] = picture
    size = (sheet.shape[1] * scale, sheet.shape[0] * scale)
    _save_png(Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST), path)


def comparison(rows: Sequence[tuple[str, Tensor]], path: Path, *, title: str = "", pixel: int = 4) -> None:
    """Write labelled rows of pictures from the same noise.

    Args:
        rows: ``(label, pictures (B, 1 or 3, H, W) in [-1, 1])`` per row; all of one shape.
        path: PNG file.
        title: Headline.
        pixel: Width of one picture pixel.
    """
    plt = _pyplot()
    count, _, height, width = rows[0][1].shape
    gap, left = 2, 1.3
    cell_h, cell_w = (height + gap) * pixel / 100, (width + gap) * pixel / 100
    top = 0.42 if title else 0.08
    figure = plt.figure(figsize=(left + count * cell_w + 0.1, top + len(rows) * cell_h + 0.08), dpi=100)
    total_w, total_h = figure.get_size_inches()
    for r, (label, images) in enumerate(rows):
        y = total_h - top - (r + 1) * cell_h
        for c, picture in enumerate(to_pixels(images)):
            axes = figure.add_axes(
                (
                    (left + c * cell_w) / total_w,
                    y / total_h,
                    width * pixel / 100 / total_w,
                    height * pixel / 100 / total_h,
                )
            )
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
        figure.text(0.1 / total_w, (y + cell_h / 2) / total_h, label, va="center", fontsize=10)
    if title:
        figure.text(0.1 / total_w, 1 - 0.12 / total_h, title, va="top", fontsize=11, weight="bold")
    _save_figure(figure, path)


def error_curves(results: Mapping[str, Any], path: Path) -> None:
    """Plot RMSE, median error and (where measured) Fréchet distance against network calls, on log axes."""
    plt = _pyplot()
    from matplotlib.ticker import FuncFormatter, LogLocator

    measures = [("rmse", "RMSE to the converged solution"), ("median", "median error per sample")]
    if results["fd"] is not None:
        measures.append(("fd", f"FD ({results['fd']['features']})"))
    figure, axes = plt.subplots(1, len(measures), figsize=(4.4 * len(measures), 3.9), layout="constrained")
    nfes = sorted({row["nfe"] for row in results["rows"]})
    for ax, (key, label) in zip(axes, measures, strict=True):
        for solver in dict.fromkeys(row["solver"] for row in results["rows"]):
            points = sorted((row["nfe"], row[key]) for row in results["rows"] if row["solver"] == solver)
            color, marker, line = _STYLES.get(solver, ("#000000", ".", "-"))
            name = LABELS.get(solver, solver)
            ax.plot(*zip(*points, strict=True), color=color, marker=marker, ls=line, label=name, ms=5, lw=1.5)
        if key == "fd":
            other = results["fd"]["other_noise"]
            ax.axhline(other, color="#999999", lw=0.8)
            ax.annotate("converged, other noise", (nfes[-1], other), fontsize=7, va="bottom", ha="right")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(nfes, [str(nfe) for nfe in nfes])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.minorticks_off()
        ax.grid(True, which="major", color="#e5e5e5", lw=0.6)
        ax.set_xlabel("network calls per picture (NFE)")
        ax.set_title(label, fontsize=10)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    axes[0].legend(fontsize=7.5, frameon=False)
    _save_figure(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save_figure(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    _pyplot().close(figure)
    write_atomically(path, buffer.getvalue())
