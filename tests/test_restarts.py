"""Real kills and real processes: the numbers of one undisturbed process come out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import save_tiny_model

#: Calibrates with a journal; every network call is noted in a file, with its number of samples.
CALIBRATE = """
import sys, time, torch
import longstride as ls
from longstride import processes

folder, pause = sys.argv[1], float(sys.argv[2])
processes.join()
rank, size = processes.rank_and_size()

def network(x, t, c):
    with open(f"{folder}/calls-{rank}", "a") as calls:
        calls.write(f"{len(x)}\\n")
    time.sleep(pause)
    return torch.tanh(x + c.view(-1, 1)) * 0.7

sigmas = ls.grid("karras", 4, sigma_min=0.05, sigma_max=10.0)
table = ls.build("heun", sigmas)
noise = sigmas[0] * torch.randn(22, 5, generator=torch.Generator().manual_seed(0))
denoiser = ls.as_denoiser(
    network, ls.Schedule.edm(0.02, 10.0), "data", condition={"c": torch.linspace(-1, 1, 22)}
)
result = ls.calibrate(
    denoiser, noise, table, method="iia_edm", substeps=3, batch_size=4, reference_steps=8, journal=f"{folder}/journal"
)
if processes.is_first():
    with open(f"{folder}/result", "w") as out:
        out.write(result.card.dumps() + f"{result.calls} {result.fit_calls}")
"""


def start(script: str, folder: Path, *arguments: str, processes: int = 1) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    file = folder / "script.py"
    file.write_text(script)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(file), str(folder), *arguments]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Kill a process, without warning, as soon as it has come so far."""
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert running, "ended before it could be killed"


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()[-2000:]


def samples_called(folder: Path) -> list[int]:
    return [int(line) for file in sorted(folder.glob("calls-*")) for line in file.read_text().split()]


#: The same for the fit of everything together: whole trajectories, many solvers, and one reference for all samples.
TOGETHER = (
    CALIBRATE.replace('"heun"', '"ddim"')
    .replace('method="iia_edm", substeps=3', 'method="gauss_newton", iterations=2, held_out=10')
    .replace("{result.calls} {result.fit_calls}", "")
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(CALIBRATE, folder, "0"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(12, 40, 90)])
def test_a_killed_calibration_goes_on_and_ends_in_the_same_card(tmp_path, undisturbed, kills):
    """Every kill costs at most one batch, here of one unit: its fine solution, its reference or its roll-out."""
    folder = tmp_path / "run"
    for calls in kills:
        process = start(CALIBRATE, folder, "0.004")
        kill_when(process, lambda calls=calls: len(samples_called(folder)) >= calls)
        assert not (folder / "result").exists()
    finish(start(CALIBRATE, folder, "0"))
    assert (folder / "result").read_text() == (undisturbed / "result").read_text()
    extra = sum(samples_called(folder)) - sum(samples_called(undisturbed))
    longest_part = (8 + 4) * 8  # the reference of a unit, with its check
    walked_again = 7 * 11  # the known table once more, before the gate's trials go on
    assert 0 <= extra <= len(kills) * longest_part + walked_again


@pytest.mark.slow
def test_two_processes_share_the_calls_and_agree_to_the_bit(tmp_path, undisturbed):
    folder = tmp_path / "run"
    finish(start(CALIBRATE, folder, "0", processes=2))
    assert (folder / "result").read_text() == (undisturbed / "result").read_text()
    each = [sum(map(int, file.read_text().split())) for file in sorted(folder.glob("calls-*"))]
    assert len(each) == 2
    assert sum(each) == sum(samples_called(undisturbed)) + 4  # each looks at the network twice, for two journals
    assert max(each) < 0.75 * sum(each)


@pytest.fixture(scope="module")
def undisturbed_together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed-together") / "run"
    finish(start(TOGETHER, folder, "0"))
    card = json.loads((folder / "result").read_text())
    assert (card["method"], card["end"]["accepted"], len(card["search"]["iterations"])) == ("gauss_newton", True, 3)
    return folder


@pytest.mark.slow
def test_a_killed_fit_of_everything_goes_on_and_ends_in_the_same_card(tmp_path, undisturbed_together):
    """Killed while it solves the reference, and while it fits; only the unit at hand is done again."""
    folder = tmp_path / "run"
    for place in ("reference", "jacobian"):
        process = start(TOGETHER, folder, "0.002")
        kill_when(process, lambda place=place: len([*folder.glob(f"journal/{place}/**/[!.]*.npz")]) >= 2)
        assert not (folder / "result").exists()
    finish(start(TOGETHER, folder, "0"))
    assert (folder / "result").read_text() == (undisturbed_together / "result").read_text()
    extra = sum(samples_called(folder)) - sum(samples_called(undisturbed_together))
    parameters = 10 + 3 + 3  # weights, levels and the first state's weight where there is one
    longest_part = max((8 + 4) * 8, 4 * 8 * (1 + parameters))  # the reference of a unit, or its normal equations
    walked_again = 4 * 10  # the known table once more, before the judge's trials go on
    looked_again = 2 * 2  # at the network, by every process that finds a journal
    assert 0 <= extra <= 2 * longest_part + walked_again + looked_again


@pytest.mark.slow
def test_two_processes_fit_what_one_fits_to_the_bit(tmp_path, undisturbed_together):
    folder = tmp_path / "run"
    finish(start(TOGETHER, folder, "0", processes=2))
    assert (folder / "result").read_text() == (undisturbed_together / "result").read_text()
    each = [sum(map(int, file.read_text().split())) for file in sorted(folder.glob("calls-*"))]
    assert len(each) == 2
    assert (
        sum(each) == sum(samples_called(undisturbed_together)) + 4
    )  # each looks at the network twice, for two journals
    assert max(each) < 0.75 * sum(each)


# Evaluation, through the command line

EVALUATE = """
import sys
from longstride.cli import app
sys.argv = ["longstride", "evaluate", sys.argv[2], "--out", sys.argv[1] + "/out", *"--solvers iia_ddim,iia_edm".split(),
    *"--nfe 4,6 --samples 24 --batch-size 3 --calibration-samples 8 --substeps 2 --reference-steps 8".split(),
    *"--dimensions 3".split()]
app()
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    finish(start(EVALUATE, folder, tiny))
    return folder


def parts_in(folder: Path, place: str) -> dict[str, int]:
    """Finished parts and when they were written; folders may vanish meanwhile."""
    found = {}
    for where, _, files in os.walk(folder / "out" / "work" / place):
        for file in (os.path.join(where, name) for name in files if name.endswith(".npz") and name[0] != "."):
            with contextlib.suppress(FileNotFoundError):
                found[file] = os.stat(file).st_mtime_ns
    return found


def parts_of(folder: Path) -> dict[str, bytes]:
    work = folder / "out" / "work"
    return {str(file.relative_to(work)): file.read_bytes() for file in sorted(work.rglob("*.npz"))}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_in_the_same_numbers(tmp_path, tiny, evaluated):
    """Killed while it calibrates and twice while it evaluates; no finished part is computed again."""
    folder, seen = tmp_path / "run", {}
    for place, wanted in (("calibration", 5), ("batches", 10), ("batches", 30)):
        process = start(EVALUATE, folder, tiny)
        kill_when(process, lambda place=place, wanted=wanted: len(parts_in(folder, place)) >= wanted)
        assert not (folder / "out" / "results.json").exists()
        times = parts_in(folder, "batches")
        assert all(times.get(file, at) == at for file, at in seen.items())
        seen = times
    finish(start(EVALUATE, folder, tiny))
    assert (folder / "out" / "results.json").read_text() == (evaluated / "out" / "results.json").read_text()
    assert parts_of(folder) == parts_of(evaluated)


@pytest.mark.slow
def test_two_processes_evaluate_what_one_evaluates(tmp_path, tiny, evaluated):
    folder = tmp_path / "run"
    finish(start(EVALUATE, folder, tiny, processes=2))
    assert (folder / "out" / "results.json").read_text() == (evaluated / "out" / "results.json").read_text()
    assert (folder / "out" / "results.parquet").exists()
