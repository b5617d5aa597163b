"""``longstride evaluate PIPELINE`` under a launcher: the processes share the samples, and one of them tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run
from tiny_pipelines import make_pipeline

#: The command, with every drawn sample noted in a file of the process.
COMMAND = """
import os, runpy, sys
from longstride.cli.pipeline_source import PipelineSource

plain = PipelineSource.draw

def draw(self, sampler, seed):
    with open(f"drawn-{os.environ['RANK']}", "a") as file:
        file.write(f"{sampler.digest} {seed}\\n")
    return plain(self, sampler, seed)

PipelineSource.draw = draw
sys.argv[0] = "longstride"
runpy.run_module("longstride", run_name="__main__")
"""
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_processes_share_the_samples_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_pipeline("stable_diffusion", tmp_path / "parts").save_pretrained(tmp_path / "sd")
    (tmp_path / "command.py").write_text(COMMAND)
    options = ["evaluate", "sd", "--pipeline", "--size", "16x16", "--samples", "8", "--reference-steps", "6"]
    options += ["--nfe", "3", "--solvers", "ddim"]
    run(*options, "--out", "alone")
    together = subprocess.run(
        [sys.executable, *LAUNCHER, "command.py", *options, "--out", "together"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert together.returncode == 0, together.stderr[-2000:]
    assert together.stdout.count("written to together") == 1
    alone, shared = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "together"))
    assert shared == alone
    drawn = [(tmp_path / f"drawn-{rank}").read_text().splitlines() for rank in (0, 1)]
    first = {mine[0] for mine in drawn}  # both look at one sample of every sampler before the work begins
    assert len(first) == 1
    assert not set(drawn[0][1:]) & set(drawn[1][1:])
    assert min(map(len, drawn)) == 1 + 4 * 2
    assert sum(map(len, drawn)) == 2 + 8 * 2 + 1  # one sample tells how far the converged run has converged
