"""Tails of a table against its base: how many samples are how much farther off, and who these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from longstride.arrays import Array

__all__ = ["far", "tails"]


def far(after: Mapping[str, Array], before: Mapping[str, Array]) -> dict[str, Any] | None:
    """Who the samples are that are more than four times as far off as with the base, and where they part from it.

    Returns:
        Errors of the base on all samples and on these, and of the table on these, as quantiles 5, 50 and 95 %; and the
        median distance of every output from the converged sample, for these and for the others. None if there are none.
    """
    base, error = np.sqrt(before["squared"]), np.sqrt(after["squared"])
    lost = error > 4 * base
    if not lost.any():
        return None

    def quantiles(values: Array) -> list[float]:
        return [float(value) for value in np.quantile(values, (0.05, 0.5, 0.95))]

    away = {
        f"{name}_{which}": np.median(run["away"][who], axis=0).tolist()
        for name, run in (("table", after), ("base", before))
        for which, who in (("far", lost), ("others", ~lost))
    }
    errors = {"base_all": base, "base_far": base[lost], "table_far": error[lost]}
    return {"errors": {name: quantiles(values) for name, values in errors.items()}, "away": away}


def tails(squared: Array, base: Array) -> dict[str, float]:
    """Errors over the base's, and how many samples are how much farther off than with the base."""
    found = {
        "rmse": float(np.sqrt(squared.mean() / base.mean())),
        "median": float(np.median(np.sqrt(squared)) / np.median(np.sqrt(base))),
        "largest": float(np.sqrt(squared.max())),
    }
    shares = {"worse": 1.0, "worse_2": 2.0, "worse_4": 4.0}
    return found | {name: float((squared > factor**2 * base).mean()) for name, factor in shares.items()}
