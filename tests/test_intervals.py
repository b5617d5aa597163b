"""Student's quantile against printed tables."""

from __future__ import annotations

import pytest

from longstride.intervals import student


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.70620), (2, 4.30265), (7, 2.36462), (9, 2.26216), (29, 2.04523), (1000, 1.96234)]
)
def test_students_quantile_is_the_tables(degrees: int, quantile: float):
    assert student(degrees, 0.975) == pytest.approx(quantile, abs=5e-6)
    assert student(degrees, 0.025) == pytest.approx(-quantile, abs=5e-6)
    assert student(degrees, 0.5) == pytest.approx(0, abs=1e-12)
