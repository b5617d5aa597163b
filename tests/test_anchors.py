"""Which settings of a book are calibrated: both ends, and neighbours that lie close."""

from __future__ import annotations

from itertools import pairwise

import pytest

from longstride.calibration.anchors import anchors_of, scales_between


@pytest.mark.parametrize(
    ("nfes", "anchors"),
    [
        (range(4, 21), [4, 6, 9, 13, 20]),
        ((4, 6, 8), [4, 6, 8]),
        ((5,), [5]),
        ((5, 6), [5, 6]),
        (range(1, 9), [1, 2, 3, 4, 6, 8]),
    ],
)
def test_anchors_reach_both_ends_and_lie_close(nfes, anchors):
    assert anchors_of(list(nfes)) == anchors


def test_anchors_of_any_range_differ_by_about_a_half():
    for low in range(4, 12):
        for high in range(low, 50):
            found = anchors_of(range(low, high + 1))
            assert (found[0], found[-1]) == (low, high)
            assert all(b / a <= 1.75 for a, b in pairwise(found))


def test_scales_between_are_the_ends_and_their_geometric_mean():
    assert scales_between(1, 8) == [1, 2.83, 8]
    assert scales_between(2, 8) == [2, 4, 8]
    assert scales_between(0, 8) == [0, 2, 8]
