"""How numbers are written on the command line."""

from __future__ import annotations

import pytest

from longstride.cli.written import guidances_of, nfes_of


@pytest.mark.parametrize(
    ("text", "expected"), [("8", [8]), ("4-6", [4, 5, 6]), ("4 - 6", [4, 5, 6]), ("8,4,4,6", [4, 6, 8]), ("5-5", [5])]
)
def test_how_calls_are_written(text: str, expected: list[int]):
    assert nfes_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [None]), ("7.5", [7.5]), ("1-8", [1, 2.83, 8]), ("7.5,1,3", [1, 3, 7.5]), ("-1", [-1]), ("2", [2])],
)
def test_how_guidance_is_written(text: str | None, expected: list[float | None]):
    assert guidances_of(text) == expected
