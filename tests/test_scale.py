"""What many processes would do, counted on one; and the scripts that start them."""

from __future__ import annotations

import pytest

from benchmarks.scale import counted, evaluation_path
from benchmarks.small_work import network, noise, table

#: Two fitted units and one held-out unit of 8 samples.
OPTIONS = {"held_out": 8, "batch_size": 8, "iterations": 1, "scouts": 2, "reference_steps": 12, "seed": 0}


@pytest.fixture(scope="module")
def found():
    return counted(network(), noise(24), table(3), (1, 2, 3, 64), **OPTIONS)


def test_one_process_makes_all_calls(found) -> None:
    assert found["paths"][0]["samples"] == found["calls"] == sum(kind["calls"] for kind in found["kinds"].values())


def test_a_piece_takes_as_long_as_its_slowest_process(found) -> None:
    """Of two processes one has a fitted and the held-out unit, or a fitted unit: never less than half of a piece."""
    one, two, three, many = (path["samples"] for path in found["paths"])
    assert two < one
    assert many == three == two  # the first process has the first unit of either kind, however many share
    reference = found["kinds"]["reference"]
    assert reference == {"calls": 24 * 12, "units": 3}


def test_units_that_nobody_else_can_take_bound_the_speed(found) -> None:
    """More processes than units change nothing; the slowest process has at least one unit of every piece."""
    least = sum(kind["calls"] / kind["units"] for kind in found["kinds"].values())
    assert all(least <= path["samples"] <= found["calls"] for path in found["paths"])


def test_groups_of_an_evaluation_are_whole() -> None:
    assert evaluation_path(640, 10, 64) == 10
    assert evaluation_path(650, 10, 64) == 20  # 65 batches in 64 groups
    assert evaluation_path(320, 10, 64) == 10  # 32 batches keep 32 processes busy
    assert evaluation_path(320, 10, 1) == 320
