"""Options that do not apply are refused: every option of every command, beside every kind of model and card."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from command_line import error

from longstride.cli import app
from longstride.cli.unread import UNREAD

PIPELINE = ("--pipeline",)
#: A value that each option takes.
VALUES = {"--size": "16x16", "--option": "clean=1", "--dtype": "float16", "--grid": "uniform", "--final": "zero"}
VALUES |= {"--solver": "ddim", "--negative": "blue", "--label": "1", "--batch-size": "2", "--nfe": "3"}
VALUES |= {"--prompts": "prompts.txt"}
VALUES |= {"--calibration-samples": "4", "--substeps": "2", "--features": "inception", "--real": "x.npz"}
VALUES |= {"--today-sampler": "ddim", "--today-nfe": "9", "--guidance": "2", "--seed": "1", "--device": "cpu"}
VALUES |= {"--samples": "32", "--batch": "4", "--held-out": "8", "--iterations": "2", "--method": "iia", "--rank": "2"}
#: Options without a value.
FLAGS = ("--compare", "--any-model", "--decoded", "--quick")
#: Cases as arguments of a command. The cards are read after the options.
CASES = {
    "network": (),
    "pipeline": PIPELINE,
    "card of a network": ("--card", "card.json"),
    "no card": (),
    "one row": PIPELINE,
    "cards only": ("--solvers", ",", "--card", "card.json"),
    "errors only": ("--dimensions", "0"),
    "outcome": ("--from", "outcome.json"),
    "budget": ("--budget", "2000"),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flag_of(command: str, name: str) -> str:
    """The option of a command's parameter."""
    (function,) = (one.callback for one in app.registered_commands if one.callback.__name__ == command)
    own = {"call_options": "--option"}
    assert name in inspect.signature(function).parameters
    return own.get(name, "--" + name.replace("_", "-"))


@pytest.mark.parametrize(
    ("command", "case", "name", "why"),
    [(command, one.case, name, one.why) for command, all_ in UNREAD.items() for one in all_ for name in one.options],
)
def test_an_option_that_nothing_would_read(shared: Path, command: str, case: str, name: str, why: str):
    flag = flag_of(command, name)
    value = () if flag in FLAGS else (VALUES[flag],)
    # A recalibration reads the card first: the card tells whether it is of a network.
    what = (shared / "card.json", "nowhere") if command == "recalibrate" else ("nowhere",)
    message = error(command, *what, *CASES[case], flag, *value).replace("\n", " ")
    assert f"error: {flag} does nothing {why} " in message


def test_the_default_of_an_option_may_be_given_where_it_is_read():
    """What counts is that the user gave it, even if it is the default."""
    message = error("sample", "nowhere", "--prompt", "a", "--grid", "auto")
    assert "--grid does nothing for a whole pipeline" in message
    assert "unknown model" in error("sample", "nowhere", "--grid", "auto")


def test_several_at_once():
    message = error("calibrate", "nowhere", "--pipeline", "--grid", "nonsense", "--final", "nonsense")
    assert (
        message == "error: --grid and --final do nothing for a whole pipeline: its own scheduler chooses the levels\n"
    )
