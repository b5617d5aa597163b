"""The pictures of a report: what the reader flips between, chooses between, and the samples that got worst."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from longstride.evaluation.measure import Key
from longstride.evaluation.plots import to_pixels
from longstride.evaluation.source import NetworkSource
from longstride.report.outcome import Outcome, Pair, Pictures, Worst
from longstride.table import SolverTable

__all__ = ["BLIND", "FLIPS", "draw_pictures", "encoded"]

#: How many pictures are drawn for each purpose.
BLIND, FLIPS, WORST = 20, 8, 6
#: Larger pictures are made so small, and wider than this they are compressed with losses.
_WIDEST, _LOSSLESS = 320, 96


def encoded(images: Tensor) -> list[str]:
    """Pictures ``(B, 1 or 3, H, W)`` in [-1, 1] as ``data:`` addresses."""
    found = []
    for pixels in to_pixels(images):
        image = Image.fromarray(pixels)
        image = image.convert("L") if (pixels == pixels[..., :1]).all() else image
        image.thumbnail((_WIDEST, _WIDEST), Image.Resampling.LANCZOS)
        kind = "png" if image.width <= _LOSSLESS else "webp"
        buffer = io.BytesIO()
        image.save(buffer, kind.upper(), **({"optimize": True} if kind == "png" else {"quality": 92}))
        found.append(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return found


def draw_pictures(
    source: NetworkSource, tables: Mapping[Key, SolverTable], outcome: Outcome, calls: int, seeds: range
) -> Pictures:
    """Draw all pictures.

    Args:
        source: Draws the samples.
        tables: The samplers by name and number of calls.
        outcome: Names today's sampler, and holds the errors that say which samples got worst.
        calls: Network calls of the calibrated sampler.
        seeds: Seeds of the evaluated samples. The first ones are for the blind choice, the next ones for flips.
    """
    drawing = _Drawing(source, tables, outcome.today, calls)
    flips = seeds[BLIND : BLIND + FLIPS] or seeds[:FLIPS]
    today, ours = outcome.reference, outcome.sampler("calibrated", calls)
    assert today is not None
    assert ours is not None
    grown = np.array(ours.errors) - np.array(today.errors)
    worst = [int(n) for n in np.argsort(-grown, kind="stable")[:WORST]]
    return Pictures(
        calls=calls,
        flips=tuple(drawing.pairs(flips, fewer=True, converged=True)),
        blind=tuple(drawing.pairs(seeds[:BLIND])),
        worst=tuple(Worst(n, drawing.pairs(seeds[n : n + 1], converged=True)[0]) for n in worst),
        width=drawing.width,
    )


@dataclass
class _Drawing:
    """Draws pairs of pictures from the same noise.

    Attributes:
        source: Draws the samples.
        tables: The samplers by name and number of calls.
        today: Name and number of calls of the sampler that is in use now.
        calls: Network calls of the calibrated sampler.
        width: Width of the last picture in pixels.
    """

    source: NetworkSource
    tables: Mapping[Key, SolverTable]
    today: Key
    calls: int
    width: int = 0

    def pairs(self, seeds: range, *, fewer: bool = False, converged: bool = False) -> list[Pair]:
        """A pair for every seed.

        Args:
            seeds: The seeds.
            fewer: Whether today's sampler with fewer calls is drawn, too.
            converged: Whether the converged solution is drawn, too.
        """
        batch = self.source.batch(seeds)
        near = max((calls for name, calls in self.tables if name == self.today[0] and calls <= self.calls), default=0)
        keys: dict[str, Key] = {"today": self.today, "calibrated": ("calibrated", self.calls)}
        keys |= {"fewer": (self.today[0], near)} if fewer and near else {}
        samples = {what: batch.drawn(self.tables[key])[0] for what, key in keys.items()}
        samples |= {"converged": batch.converged(check=0)[0]} if converged else {}
        drawn: dict[str, list[str]] = {}
        for what, values in samples.items():
            pictures = self.source.pictures(values)
            self.width = min(_WIDEST, pictures.shape[-1])
            drawn[what] = encoded(pictures)
        return [Pair(seed, **{what: one[n] for what, one in drawn.items()}) for n, seed in enumerate(seeds)]
