"""A study that takes seconds, on a network of a few weights."""

from __future__ import annotations

from longstride.evaluation import Study

__all__ = ["SMALL"]

SMALL = Study(
    contestants=("iia_ddim", "iia_edm", "unipc3"),
    nfes=(4, 5),
    samples=12,
    batch_size=3,
    calibration_samples=6,
    substeps=2,
    reference_steps=8,
    dimensions=3,
)
