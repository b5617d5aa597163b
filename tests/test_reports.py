"""What calibrations report: errors as they are defined, and no number that a card could not hold."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from longstride.reports import EndReport, Errors, Iteration, RowReport, Search, Stability, WholeFit

NAN, INFINITE = float("nan"), float("inf")
ERRORS = Errors(1.0, 0.5)
REPORTS = [
    ERRORS,
    RowReport(2, 5.0, 1.0, ("noise(0)",), (0.25,), 1.0, 0.5, 1.1, 0.6, True),
    Iteration(1.0, 2.0, 0.5, 0.75, 1e-3, 48),
    WholeFit(0.5, 0.25, 1.0),
    Search(
        "ddim@dp", {"ddim@dp": 1.0}, {"ddim@dp": 0.5}, "ddim@dp", (Iteration(1.0, 2.0, 0.5, 0.75, 1e-3),), "converged"
    ),
    Stability(1.5, 1.25, 3.0, 2.0),
    EndReport(ERRORS, ERRORS, 48, 1e-3, 64, (2,), True, "", Stability(1.5, 1.25, 3.0, 2.0)),
]


def test_errors_are_root_mean_squares_over_samples_and_their_median():
    squared = np.array([1.0, 4.0, 49.0])
    errors = Errors.of(squared)
    assert errors.rmse == pytest.approx(np.sqrt(18.0))
    assert errors.median == 2.0
    assert Errors.of(squared[:2]).median == 1.5


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_reports_come_back_from_text(report):
    adapter = TypeAdapter(type(report))
    assert adapter.validate_json(adapter.dump_json(report)) == report
    with pytest.raises(ValidationError, match="remark"):
        adapter.validate_python({**adapter.dump_python(report), "remark": "mine"})


@pytest.mark.parametrize("number", [NAN, INFINITE, -INFINITE])
def test_a_card_holds_no_number_that_is_not_finite(number):
    with pytest.raises(ValidationError, match="finite number"):
        TypeAdapter(Errors).validate_python({"rmse": number, "median": 1.0})


@pytest.mark.parametrize("number", [NAN, INFINITE])
def test_what_could_not_be_measured_is_left_out(number):
    """The rest of the report stays."""
    for gains in ((number, 1.0), (1.0, number)):
        report = EndReport(ERRORS, ERRORS, 8, number, 64, (), False, "kept", Stability(*gains, 3.0, 2.0))
        assert (report.stability, report.reference_error) == (None, None)
        assert (report.base, report.samples, report.reason) == (ERRORS, 8, "kept")
