"""Seeds of different purposes."""

from __future__ import annotations

from itertools import pairwise

import pytest

import longstride as ls
from longstride.evaluation.seeds import seed_range


def test_seeds_of_different_purposes_never_meet():
    purposes = ("calibration", "evaluation", "teacher", "axes")
    ranges = sorted((seed_range(p, seed, 1_000_000) for p in purposes for seed in (0, 1, 7)), key=lambda r: r.start)
    assert all(len(r) == 1_000_000 for r in ranges)
    assert all(before.stop <= after.start for before, after in pairwise(ranges))
    with pytest.raises(ls.InputError, match="at most 1,000,000 samples"):
        seed_range("teacher", 0, 1_000_001)
