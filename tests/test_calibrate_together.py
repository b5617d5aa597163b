"""``longstride calibrate`` under a launcher: the processes share the units, also after a kill, and end in one card."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_models import save_tiny_model
from tiny_pipelines import make_pipeline

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FEW = ["--nfe", "3", "--batch", "16", "--held-out", "16", "--iterations", "1", "--batch-size", "8"]
NETWORK = ["tiny", *FEW]
PIPELINE = ["sd", "--pipeline", "--size", "16x16", "--nfe", "3", "--batch", "16", "--held-out", "16"]
PIPELINE += ["--method", "iia", "--substeps", "2"]
#: The command, with every question to a pipeline noted in a file of the process.
COMMAND = """
import os, runpy, sys
from longstride.integrations.pipeline_denoiser import PipelineDenoiser

plain = PipelineDenoiser.standing

def standing(self, numbers, x, time):
    with open(f"asked-{os.environ.get('RANK', 'alone')}", "a") as file:
        file.write(f"{len(numbers)}\\n")
    return plain(self, numbers, x, time)

PipelineDenoiser.standing = standing
sys.argv[0] = "longstride"
runpy.run_module("longstride", run_name="__main__")
"""


def start(folder: Path, *words: str, launcher: list[str]) -> subprocess.Popen[str]:
    (folder / "command.py").write_text(COMMAND)
    return subprocess.Popen(
        [sys.executable, *launcher, "command.py", "calibrate", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """The launcher and all that it has started, without warning, as when a node goes down."""
    everybody = psutil.Process(process.pid).children(recursive=True)
    for one in (process, *everybody):
        one.kill()
    process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    told, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-2000:]
    return told


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_card_of_one(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "tiny")
    finish(start(tmp_path, *NETWORK, "--out", "alone.json", launcher=[]))
    killed = start(tmp_path, *NETWORK, "--out", "card.json", launcher=TWO)
    journal, deadline = tmp_path / ".card.json.unfinished", time.monotonic() + 240
    while len([*journal.glob("ends/**/[!.]*.npz")]) < 8 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert killed.poll() is None, "ended before it could be killed"
    kill(killed)
    assert not (tmp_path / "card.json").exists()
    told = finish(start(tmp_path, *NETWORK, "--out", "card.json", launcher=TWO))
    assert "going on with the calibration that was stopped" in told
    assert (tmp_path / "card.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert not journal.exists()


@pytest.mark.slow
def test_processes_share_the_units_of_a_pipeline(tmp_path: Path) -> None:
    make_pipeline("stable_diffusion", tmp_path / "parts").save_pretrained(tmp_path / "sd")
    finish(start(tmp_path, *PIPELINE, "--out", "alone.json", launcher=[]))
    told = finish(start(tmp_path, *PIPELINE, "--out", "card.json", launcher=TWO))
    assert told.count("card written to card.json") == 1
    assert (tmp_path / "card.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    alone, *each = (sum(map(int, (tmp_path / f"asked-{name}").read_text().split())) for name in ("alone", 0, 1))
    assert max(each) < 0.6 * alone
