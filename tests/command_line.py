"""The command line in tests: run a command, and what it says."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from longstride.cli import app as longstride

#: A quick calibration row by row, and one of everything together.
SMALL = ("--method", "iia", "--nfe", "3", "--substeps", "2", "--batch", "2", "--held-out", "2")
FEW = ("--batch", 8, "--held-out", 8, "--iterations", 1)


def invoke(*args: object, app: typer.Typer = longstride) -> Result:
    """What came of a command."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def run(*args: object, app: typer.Typer = longstride) -> str:
    """Standard output of a command that must succeed."""
    result = invoke(*args, app=app)
    assert result.exit_code == 0, result.output
    assert only_phases(result.stderr)
    return result.stdout


def only_phases(stderr: str) -> bool:
    """Whether a log holds nothing but phases, and how far long ones are, one a line: no warning of a library."""
    phases = "converging|filling|calibrating|teacher|evaluating|intervals|drawing|fitting|checking|ablations on [^ ]*"
    return all(
        re.fullmatch(rf"([a-z0-9_]+: )?({phases})(, part [0-9]+ of [0-9]+)?( …|: [0-9,]+ of [0-9,]+, .*)", line)
        for line in stderr.splitlines()
    )


def error(*args: object) -> str:
    """The one line that a bad command prints; it must exit with 2 and leave no file behind."""
    before = sorted(Path().rglob("*"))
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return result.stderr
