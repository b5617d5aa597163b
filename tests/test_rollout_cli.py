"""``longstride rollout``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import error, run

import longstride as ls


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "rollout.db"


def test_a_roll_out_by_hand(store, card):
    started = json.loads(run("rollout", "start", store, "--new", card, "--old", card, "--json"))
    assert (started["status"], started["shares"]) == ("running", {"base": 0.0, "old": 0.99, "new": 0.01})
    with ls.Rollout(store) as rollout:
        for n in range(20):
            rollout.record(n, "old", seconds=0.1, flagged=False)
            rollout.record(n, "new", seconds=0.1, flagged=n == 3, error=0.1, other_error=0.2)
    shown = run("rollout", "status", store)
    for part in ("running, stage 1 of 4 (1 % → 10 % → 50 % → 100 %)", "new against old", "waits for 10 more requests"):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "stage 2 of 4" in run("rollout", "promote", store, "--reason", "looked at pictures")
    assert "base   100 %" in run("rollout", "rollback", store, "--to", "base", "--reason", "odd colours")
    log = run("rollout", "status", store, "--log").splitlines()[-3:]
    assert log[0].startswith("1. started, stage 1, by hand: new answers 1 % of the requests")
    assert log[1:] == [
        "2. promoted, stage 2, by hand: looked at pictures",
        "3. rolled back, stage 2, by hand: odd colours",
    ]
    found = json.loads(run("rollout", "status", store, "--json"))
    assert [decision["action"] for decision in found["log"]] == ["started", "promoted", "rolled back"]
    assert found["comparisons"]["error"]["pairs"] == 20


def test_stages_can_be_chosen(store, card):
    run("rollout", "start", store, "--new", card, "--stages", "5, 30%,100", "--requests", 7, "--base-share", 10)
    with ls.Rollout(store) as rollout:
        stages = rollout.plan.stages
        assert [(stage.share, stage.requests, stage.measured) for stage in stages] == [
            (0.05, 7, 20),
            (0.3, 7, 50),
            (1.0, 7, 80),
        ]
        assert rollout.plan.base_share == pytest.approx(0.1)


def test_mistakes_are_one_line(store, card):
    assert "there is no store at" in error("rollout", "status", store)
    assert "is no list of per cents" in error("rollout", "start", store, "--new", card, "--stages", "1,ten")
    assert "above 0 and up to 100" in error("rollout", "start", store, "--new", card, "--stages", "1,200")
    assert "must grow" in error("rollout", "start", store, "--new", card, "--stages", "10,1")
    assert "missing.json" in error("rollout", "start", store, "--new", "missing.json")
    run("rollout", "start", store, "--new", card)
    assert "a roll-out is under way" in error("rollout", "start", store, "--new", card)
    assert "unknown arm 'old'" in error("rollout", "rollback", store, "--to", "old")


@pytest.mark.parametrize("command", ["start", "status", "promote", "rollback"])
def test_help_ends_with_an_example_that_runs(command, monkeypatch):
    """As of the other commands; no line is wider than a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    text = re.sub(r"\x1b\[[0-9;]*m", "", run("rollout", command, "--help"))
    example = next(line.strip() for line in text.splitlines() if "Example:" in line)
    assert example.startswith(f"Example: longstride rollout {command} rollout.db")
    assert all(option in text.split("Example:")[0] for option in re.findall(r"--\w+", example))
    assert text.rstrip().endswith(example)
    assert max(map(len, text.splitlines())) <= 80
