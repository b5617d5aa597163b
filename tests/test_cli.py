"""The command line: its help, what it shows, and one line for everything that is wrong."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import error, invoke, only_phases, run

import longstride as ls
from longstride.cli.options import METHODS, PIPELINES, QUALITY

COMMANDS = ("demo", "calibrate", "sample", "evaluate", "show", "poc", "ui", "convert")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_that_runs(command: str):
    """The example stands on one line, and every option in it exists."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", run(command, "--help"))
    example = next(line.strip() for line in text.splitlines() if "Example:" in line)
    assert example.startswith(f"Example: longstride {command} ")
    assert all(option in text.split("Example:")[0] for option in re.findall(r"--\w+", example))
    assert text.rstrip().endswith(example)


def test_the_help_of_calibrate_begins_with_everyday_options(monkeypatch: pytest.MonkeyPatch):
    """Panels in their order, each with options of its own; no line is wider than a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    text = re.sub(r"\x1b\[[0-9;]*m", "", run("calibrate", "--help"))
    places = [text.index(f"─ {panel} ─") for panel in ("Options", QUALITY, PIPELINES, METHODS)]
    assert places == sorted(places)
    parts = [text[begin:end] for begin, end in itertools.pairwise([*places, len(text)])]
    expected = ("--nfe --seed", "--batch-size", "--prompts --size", "--method --ridge")
    for part, options in zip(parts, expected, strict=True):
        assert all(option in part for option in options.split())
    assert max(map(len, text.splitlines())) <= 80


def test_version():
    assert run("--version") == f"longstride {ls.__version__}\n"


def test_no_command_shows_the_help():
    output = invoke().output
    assert all(command in output for command in COMMANDS)


@pytest.mark.slow
def test_a_real_process(model: Path, card: Path):
    """Nothing but JSON on standard output, one line on standard error, and an exit code for scripts."""
    code = "import sys; from longstride.cli import app; sys.argv[0] = 'longstride'; app()"
    command = [sys.executable, "-W", "error", "-c", code, "sample", str(model), "--card", str(card), "--num", "2"]
    good = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert good.returncode == 0, good.stderr
    assert only_phases(good.stderr)
    assert json.loads(good.stdout)["files"] == ["samples.png"]
    bad = subprocess.run([*command, "--device", "abacus"], capture_output=True, text=True, timeout=120, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: device 'abacus' cannot be used here")
    assert bad.stderr.count("\n") == 1


def test_show(card: Path):
    output = run("show", card)
    assert all(word in output for word in ("card: IIA-DDIM", "x3 = ", "normal form", "D2"))
    assert json.loads(run("show", card, "--json")) == json.loads(card.read_text())


@pytest.mark.parametrize("command", ["calibrate", "sample"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--solver ddin", "solver 'ddin': did you mean 'ddim'"),
        ("--grid unifrom", "unknown grid 'unifrom': did you mean 'uniform'"),
        ("--nfe 0", "Invalid value for '--nfe'"),
        ("--nfe many", "Invalid value for '--nfe'"),
        ("--seed -1", "Invalid value for '--seed'"),
        ("--seed 99999999999999999999", "Invalid value for '--seed'"),
        ("--what", "No such option: --what"),
        ("--guidance nan", "guidance must be a finite number"),
        ("--device abacus", "device 'abacus' cannot be used here"),
        ("--device meta", "device 'meta' cannot be used here"),
        ("--out {card}/sub/x.png", "cannot write"),
    ],
)
def test_bad_options(model: Path, card: Path, command: str, options: str, expected: str):
    assert expected in error(command, model, *options.format(card=card).split())


@pytest.mark.parametrize("command", ["calibrate", "sample"])
def test_bad_models(shared: Path, command: str):
    assert "unknown model 'garment': did you mean 'garments' or 'garments_flow'?" in error(command, "garment")
    assert "model_index.json is missing" in error(command, ".")
    assert "missing argument 'model'" in error(command).lower()
    assert "cannot be guided" in error(command, shared / "plain", "--guidance", 2)


def test_an_unknown_command():
    assert "No such command 'calibrat'. Did you mean 'calibrate', 'recalibrate'?" in error("calibrat")
    assert "No such option: --bogus" in error("--bogus")


def test_show_refuses_a_damaged_card(card: Path):
    Path("cut.json").write_bytes(card.read_bytes()[:500])
    assert "cut short or damaged" in error("show", "cut.json")
