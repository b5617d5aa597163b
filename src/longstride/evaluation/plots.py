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
from longstride.plots.style import (
    BASE,
    CURVES,
    FAINT,
    GREY,
    Look,
    blank_figure,
    log_axes,
    new_figure,
    save_figure,
    styled,
)

__all__ = ["comparison", "effect_curves", "picture_grid", "to_pixels"]


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


@styled
def comparison(rows: Sequence[tuple[str, Tensor]], path: Path, *, title: str = "", pixel: int | None = None) -> None:
    """Write labelled rows of pictures from the same noise.

    Args:
        rows: ``(label, pictures (B, 1 or 3, H, W) in [-1, 1])`` per row; all pictures have one shape.
        path: PNG file.
        title: Headline.
        pixel: Width of one pixel of a picture; by default a picture is about 100 wide.
    """
    count, _, height, width = rows[0][1].shape
    pixel = max(1, round(112 / width)) if pixel is None else pixel
    gap, left = 2, 1.3
    cell_h, cell_w = (height + gap) * pixel / 100, (width + gap) * pixel / 100
    top = 0.42 if title else 0.08
    figure = blank_figure(left + count * cell_w + 0.1, top + len(rows) * cell_h + 0.08)
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


@styled
def effect_curves(
    results: Results, path: Path, *, measures: Sequence[str] = ("rmse", "fd_teacher"), title: str = ""
) -> None:
    """Plot what calibration does, against network calls on log axes: a column per base solver, a row per measure.

    The base is dashed with open markers. Its calibrated forms have colours. A solver without a calibrated form is
    dotted in light grey. Bars are 95 % intervals. A thin line marks converged samples from other noise.

    Args:
        results: Results of a study.
        path: PNG file.
        measures: Measures to plot; a measure that the study does not have is left out.
        title: Headline.
    """
    shown = [m for m in measures if any(line.measure == m for line in results.lines)]
    families, others = _families(results)
    size = (2.35 * len(families) + 0.9, 2.3 * len(shown) + 0.5)
    figure, axes = new_figure(*size, len(shown), len(families), sharex=True, sharey="row")
    for row, measure in zip(axes, shown, strict=True):
        for ax, (base, members) in zip(row, families.items(), strict=True):
            for name in others:
                _curve(ax, results, name, measure, FAINT)
            for number, name in enumerate(members):
                look = BASE if name == base else CURVES[(number - 1) % len(CURVES)]
                _curve(ax, results, name, measure, look)
            teacher = next((x for x in results.lines if x.contestant == "teacher" and x.measure == measure), None)
            if teacher is not None:
                ax.axhline(teacher.value, color=GREY, lw=0.8, zorder=0)
            log_axes(ax, results.nfes)
        row[0].set_ylabel(_DRAWN[measure])
    for ax, base in zip(axes[0], families, strict=True):
        ax.set_title(label(base))
        ax.legend(loc="best")
    figure.supxlabel("network calls per picture (NFE)")
    if title:
        figure.suptitle(title, fontsize=11, weight="bold", x=0.01, ha="left")
    save_figure(figure, path)


def _families(results: Results) -> tuple[dict[str, list[str]], list[str]]:
    """Every base with its calibrated forms, and the classical solvers without a calibrated form."""
    bases = {line.contestant: line.base for line in results.lines if line.base is not None}
    families: dict[str, list[str]] = {}
    for base in dict.fromkeys(bases.values()):
        families[base] = [base, *(name for name, other in bases.items() if other == base)]
    seen = {name for members in families.values() for name in members}
    rest = [name for name in results.contestants if name not in seen]
    return (families, rest) if families else ({rest[0]: rest}, [])


def _curve(ax: Any, results: Results, name: str, measure: str, look: Look) -> None:
    lines = sorted((x for x in results.lines if (x.contestant, x.measure) == (name, measure)), key=lambda x: x.nfe)
    values = np.array([line.value for line in lines])
    low = np.array([line.value if line.low is None else line.low for line in lines])
    high = np.array([line.value if line.high is None else line.high for line in lines])
    ax.errorbar(
        [line.nfe for line in lines],
        values,
        yerr=[np.minimum(values - low, 0.95 * values).clip(0), (high - values).clip(0)],
        label=label(name),
        elinewidth=0.8,
        **look.curve,
    )
