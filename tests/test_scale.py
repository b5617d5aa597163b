"""What many processes would do, counted on one; and the scripts that start them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from torch.distributed.run import get_args_parser, parse_min_max_nnodes

from benchmarks.scale import counted, evaluation_path
from benchmarks.small_work import network, noise, table
from longstride.cli import app

#: Two fitted units and one held-out unit of 8 samples.
OPTIONS = {"held_out": 8, "batch_size": 8, "iterations": 1, "scouts": 2, "reference_steps": 12, "seed": 0, "monitor": 0}


@pytest.fixture(scope="module")
def found():
    return counted(network(), noise(24), table(3), (1, 2, 3, 64), **OPTIONS)


def test_one_process_makes_all_calls(found) -> None:
    assert found["paths"][0]["samples"] == found["calls"] == sum(piece["calls"] for piece in found["pieces"])


def test_a_piece_takes_as_long_as_its_slowest_process(found) -> None:
    """Of two processes one has a fitted and the held-out unit, or a fitted unit: never less than half of a piece."""
    one, two, three, many = (path["samples"] for path in found["paths"])
    assert two < one
    assert many == three == two  # the first process has the first unit of either kind, however many share
    assert {"kind": "reference", "units": 3, "calls": 24 * 12} in found["pieces"]


def test_units_that_nobody_else_can_take_bound_the_speed(found) -> None:
    """More processes than units change nothing; the slowest process has at least one unit of every piece."""
    least = sum(piece["calls"] / piece["units"] for piece in found["pieces"])
    assert all(least <= path["samples"] <= found["calls"] for path in found["paths"])


def test_groups_of_an_evaluation_are_whole() -> None:
    assert evaluation_path(640, 10, 64) == 10
    assert evaluation_path(650, 10, 64) == 20  # 65 batches in 64 groups
    assert evaluation_path(320, 10, 64) == 10  # 32 batches keep 32 processes busy
    assert evaluation_path(320, 10, 1) == 320


# The scripts

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"
#: In place of ``srun`` and ``torchrun``: tells its words, and that they are over.
TELL = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\necho ---\n'
SLURM = {"SLURM_JOB_NODELIST": "node[1-8]", "SLURM_NNODES": "8", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}


def told(command: list[str], folder: Path, **environment: str) -> list[list[str]]:
    """The words of every command that a script gives to ``srun`` or ``torchrun``."""
    for name in ("srun", "torchrun"):
        (folder / name).write_text(TELL)
        (folder / name).chmod(0o755)
    (folder / "scontrol").write_text("#!/bin/sh\necho node1\necho node2\n")
    (folder / "scontrol").chmod(0o755)
    found = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "MODEL": "garments", "WORK": str(folder / "work")}
    done = subprocess.run(command, env=found | environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [part.split("\n") for part in done.stdout.removesuffix("\n---\n").split("\n---\n")]


def check_commands(commands: list[list[str]], nodes: tuple[int, int]) -> list[dict[str, Any]]:
    """Make sure that torchrun and our command line take the words; returns what the command line reads in them."""
    read = []
    group = typer.main.get_command(app)
    for words in commands:
        asked = get_args_parser().parse_args(words)
        assert (asked.module, asked.training_script, asked.nproc_per_node) == (True, "longstride", "8")
        assert parse_min_max_nnodes(asked.nnodes) == nodes
        assert (asked.rdzv_backend, asked.rdzv_endpoint.partition(":")[2]) == ("c10d", "29500")
        name, *rest = asked.training_script_args
        context = group.commands[name].make_context(name, rest, parent=typer.Context(group))
        read.append({"command": name, **context.params})
    return read


def test_slurm_script_gives_commands_that_we_take(tmp_path: Path) -> None:
    script = str(CLUSTER / "slurm.sh")
    subprocess.run(["bash", "-n", script], check=True)
    commands = told(["bash", script], tmp_path, **SLURM)
    assert all(words[:2] == ["--kill-on-bad-exit=1", "torchrun"] for words in commands)
    calibrate, evaluate = check_commands([words[2:] for words in commands], (8, 8))
    assert (calibrate["command"], evaluate["command"]) == ("calibrate", "evaluate")
    assert (calibrate["nfe"], calibrate["out"]) == ("8", tmp_path / "work" / "card-8.json")
    assert (evaluate["card"], evaluate["samples"], evaluate["device"]) == ([calibrate["out"]], 50_000, "cuda")

    calibrate["out"].touch()  # as after a kill in the evaluation
    (again,) = check_commands([words[2:] for words in told(["bash", script], tmp_path, **SLURM)], (8, 8))
    assert again["command"] == "evaluate"


def test_slurm_script_takes_pipelines_and_arrays(tmp_path: Path) -> None:
    further = {**SLURM, "PROMPTS": "prompts.txt", "SAMPLES": "1024", "SLURM_ARRAY_TASK_ID": "5"}
    commands = told(["bash", str(CLUSTER / "slurm.sh")], tmp_path, **further)
    calibrate, evaluate = check_commands([words[2:] for words in commands], (8, 8))
    for one in (calibrate, evaluate):
        assert (one["prompts"], one["dtype"], one["nfe"]) == (Path("prompts.txt"), "bfloat16", "5")
    assert evaluate["samples"] == 1024


def test_kubernetes_job_gives_commands_that_we_take(tmp_path: Path) -> None:
    service, job = yaml.safe_load_all((CLUSTER / "job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    calibrate, evaluate = check_commands(told(container["command"], tmp_path), (1, job["spec"]["completions"]))
    assert evaluate["card"] == [calibrate["out"]]
    words = " ".join(container["command"])
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500" in words
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
