"""Pictures: grids of samples, labelled comparisons, and error curves that can be read in grey."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from longstride.evaluation.contestants import label
from longstride.evaluation.results import Results
from longstride.files import write_atomically

__all__ = ["comparison", "effect_curves", "log_axes", "picture_grid", "pyplot", "save_figure", "to_pixels"]


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


def comparison(rows: Sequence[tuple[str, Tensor]], path: Path, *, title: str = "", pixel: int | None = None) -> None:
    """Write labelled rows of pictures from the same noise.

    Args:
        rows: ``(label, pictures (B, 1 or 3, H, W) in [-1, 1])`` per row; all pictures have one shape.
        path: PNG file.
        title: Headline.
        pixel: Width of one pixel of a picture; by default a picture is about 100 wide.
    """
    plt = pyplot()
    count, _, height, width = rows[0][1].shape
    pixel = max(1, round(112 / width)) if pixel is None else pixel
    gap, left = 2, 1.3
    cell_h, cell_w = (height + gap) * pixel / 100, (width + gap) * pixel / 100
    top = 0.42 if title else 0.08
    figure = plt.figure(figsize=(left + count * cell_w + 0.1, top + len(rows) * cell_h + 0.08), dpi=100)
    total_w, total_h = figure.get_size_inches()
    for r, (text, images) in enumerate(rows):
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
        figure.text(0.1 / total_w, (y + cell_h / 2) / total_h, text, va="center", fontsize=10)
    if title:
        figure.text(0.1 / total_w, 1 - 0.12 / total_h, title, va="top", fontsize=11, weight="bold")
    save_figure(figure, path)


#: Measures that are drawn, with the titles of their rows.
_DRAWN = {
    "rmse": "RMSE to the\nconverged solution",
    "median": "median error\nper sample",
    "fd_teacher": "Fréchet distance to the\nconverged samples",
    "fd_real": "Fréchet distance to\nreal pictures",
}


def effect_curves(
    results: Results, path: Path, *, measures: Sequence[str] = ("rmse", "fd_teacher"), title: str = ""
) -> None:
    """Plot what calibration does, against network calls on log axes: a column per base solver, a row per measure.

    The base is dashed with open markers. Its calibrated forms are solid. A solver without a calibrated form is dotted
    in light grey. Bars are 95 % intervals. A thin line marks converged samples from other noise.

    Args:
        results: Results of a study.
        path: PNG file.
        measures: Measures to plot; a measure that the study does not have is left out.
        title: Headline.
    """
    plt = pyplot()
    shown = [m for m in measures if any(line.measure == m for line in results.lines)]
    families, others = _families(results)
    size = (2.35 * len(families) + 0.9, 2.3 * len(shown) + 0.5)
    figure, axes = plt.subplots(
        len(shown), len(families), figsize=size, sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for row, measure in zip(axes, shown, strict=True):
        for ax, (base, members) in zip(row, families.items(), strict=True):
            for name in others:
                _curve(ax, results, name, measure, _OTHER)
            for number, name in enumerate(members):
                _curve(ax, results, name, measure, _LOOKS[0] if name == base else _LOOKS[1 + (number - 1) % 3])
            teacher = next((x for x in results.lines if x.contestant == "teacher" and x.measure == measure), None)
            if teacher is not None:
                ax.axhline(teacher.value, color="#999999", lw=0.8, zorder=0)
            log_axes(ax, results.nfes)
        row[0].set_ylabel(_DRAWN[measure], fontsize=9)
    for ax, base in zip(axes[0], families, strict=True):
        ax.set_title(label(base), fontsize=10)
        ax.legend(fontsize=7.5, frameon=False, loc="best")
    figure.supxlabel("network calls per picture (NFE)", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11, weight="bold", x=0.01, ha="left")
    save_figure(figure, path)


#: Colour, marker, whether it is filled, line style. In grey the last three tell curves apart.
_LOOKS = (
    ("#666666", "o", False, (0, (4, 2))),
    ("#c1121f", "o", True, "-"),
    ("#1f6fb2", "s", True, "-"),
    ("#2a7f3f", "^", True, (0, (1, 1))),
)


#: The look of solvers without a calibrated form. They stand in every column.
_OTHER = ("#b0b0b0", "x", True, (0, (1, 2)))


def _families(results: Results) -> tuple[dict[str, list[str]], list[str]]:
    """Every base with its calibrated forms, and the classical solvers without a calibrated form."""
    bases = {line.contestant: line.base for line in results.lines if line.base is not None}
    families: dict[str, list[str]] = {}
    for base in dict.fromkeys(bases.values()):
        families[base] = [base, *(name for name, other in bases.items() if other == base)]
    seen = {name for members in families.values() for name in members}
    rest = [name for name in results.contestants if name not in seen]
    return (families, rest) if families else ({rest[0]: rest}, [])


def _curve(ax: Any, results: Results, name: str, measure: str, look: tuple[Any, ...]) -> None:
    lines = sorted((x for x in results.lines if (x.contestant, x.measure) == (name, measure)), key=lambda x: x.nfe)
    color, marker, filled, style = look
    values = np.array([line.value for line in lines])
    low = np.array([line.value if line.low is None else line.low for line in lines])
    high = np.array([line.value if line.high is None else line.high for line in lines])
    ax.errorbar(
        [line.nfe for line in lines],
        values,
        yerr=[np.minimum(values - low, 0.95 * values).clip(0), (high - values).clip(0)],
        label=label(name),
        color=color,
        marker=marker,
        ls=style,
        mfc=color if filled else "white",
        ms=4.5,
        lw=1.4,
        elinewidth=0.8,
    )


def log_axes(ax: Any, nfes: Sequence[int]) -> None:
    """Log axes with plain numbers; ticks of x stand at ``nfes`` if they do not meet, ticks of y at 1, 2, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = [nfe for n, nfe in enumerate(nfes) if n == 0 or nfe >= 1.19 * nfes[n - 1]]
    ax.set_xticks(ticks, [str(nfe) for nfe in ticks], fontsize=7.5)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", labelsize=7.5)
    ax.grid(True, which="major", color="#e8e8e8", lw=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def pyplot() -> Any:
    """``matplotlib.pyplot`` with a backend that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    pyplot().close(figure)
    write_atomically(path, buffer.getvalue())
