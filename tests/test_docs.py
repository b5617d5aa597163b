"""The documentation: it builds without a warning, and every example in it runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Mixture
from tiny_pipelines import make_pipeline
from toy_fits import networked, noise_of
from typer.testing import CliRunner

import longstride as ls
from longstride.cli import app

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
#: A small calibration in place of the default one, and small pictures.
SMALL = ["--batch", "8", "--held-out", "8", "--iterations", "1", "--size", "16x16"]


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pipeline in it, as the pages name it."""
    monkeypatch.chdir(tmp_path)
    make_pipeline("stable_diffusion", tmp_path / "parts").save_pretrained(tmp_path / "path/to/pipeline")
    return tmp_path


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line[2:]) for line in lines if line.startswith("$ longstride") and "path/to/pipeline" in line]


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    pages = {page.parent.name for page in (tmp_path / "site").rglob("index.html")}
    assert {"diffusers", "tutorial", "peers", "reference"} <= pages
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "LongstrideScheduler" in reference
    assert "calibrate_pipeline" in reference


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks("docs/tutorial.md"):
        exec(block, scope)
    assert scope["measured"].shape == scope["plain"].shape == (4, 1, 28, 28)
    assert scope["result"].end.accepted


@pytest.mark.slow
def test_the_lines_that_draw_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller reference solution and a card that takes seconds."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--nfe", "3", "--method", "iia", "--substeps", "2", "--batch", "2", "--held-out", "2"]
    assert CliRunner().invoke(app, ["calibrate", "garments", *arguments, "--out", "card.json"]).exit_code == 0
    (block,) = blocks("docs/show.md")
    exec(block.replace("noise, tables)", "noise, tables, steps=6)").replace('"log_snr", 64', '"log_snr", 6'), {})
    assert {file.name for file in tmp_path.glob("*.png")} == {
        f"{n}.png" for n in ("weights", "levels", "errors", "paths")
    }


def test_the_lines_for_pipelines_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the page on diffusers; its calibration with fewer samples and steps."""
    first, second, use, line = blocks("docs/diffusers.md")
    scope: dict[str, Any] = {}
    exec(first, scope)
    scope["pipe"].set_progress_bar_config(disable=True)
    assert scope["pipe"].scheduler.config.solver == "unipc"
    assert len(scope["images"]) == 1
    fewer = second.replace("samples=16, held_out=8", "samples=8, held_out=8, iterations=1, scouts=0")
    assert fewer != second
    exec(fewer, scope)
    assert scope["pipe"].scheduler.card.nfe == 4
    before = scope["pipe"].scheduler
    exec(use, scope)
    assert scope["pipe"].scheduler is not before
    assert scope["pipe"].scheduler.setup.calibrated
    exec(line, {})


@pytest.mark.slow
def test_the_readme_switches_and_calibrates_a_pipeline(here: Path) -> None:
    """Two lines, one command, two lines."""
    from diffusers import DiffusionPipeline

    (here / "prompts.txt").write_text("a red apple\n")
    switch, use = (block for block in blocks("README.md") if "pipe" in block)
    pipe = DiffusionPipeline.from_pretrained("path/to/pipeline")
    pipe.set_progress_bar_config(disable=True)
    exec(switch, {"pipe": pipe})
    assert pipe.scheduler.config.solver == "longstride"
    assert len(pipe("a", num_inference_steps=3, height=16, width=16).images) == 1
    (command,) = commands("README.md")
    done = CliRunner().invoke(app, [*command[1:], "--nfe", "4", *SMALL])
    assert done.exit_code == 0, done.output
    scope: dict[str, Any] = {"pipe": pipe}
    exec(use, scope)
    assert pipe.scheduler.card.nfe == 4
    assert pipe.scheduler.setup.calibrated
    assert len(scope["images"]) == 1


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3", "xl"])
def test_the_readmes_two_lines_run_every_process(name: str, tmp_path: Path) -> None:
    """Stable Diffusion's, a flow, and EDM's as in Playground: from the first level of the schedule."""
    from diffusers import EDMEulerScheduler

    switch, _ = (block for block in blocks("README.md") if "pipe" in block)
    pipe = make_pipeline(name, tmp_path)
    if name == "xl":
        pipe.scheduler = EDMEulerScheduler()
    exec(switch, {"pipe": pipe})
    images = pipe("a", num_inference_steps=5, height=16, width=16, output_type="pt").images
    table = pipe.scheduler.setup.plan.table
    assert table.name == "longstride"
    assert table.nfe == 5
    start = {"stable_diffusion": 14.6146, "xl": 80.0}.get(name, np.inf)
    with np.errstate(divide="ignore"):
        assert table.sigmas[0] / table.alphas[0] == pytest.approx(start, rel=1e-4)
    assert torch.isfinite(images).all()


def test_the_commands_for_pipelines_are_known() -> None:
    """Their options; the README's runs above."""
    for command in commands("docs/diffusers.md"):
        shown = CliRunner().invoke(app, [command[1], "--help"], terminal_width=200).output
        for option in (word for word in command if word.startswith("--")):
            assert option in shown


def test_k_diffusions_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    levels = ls.grid("karras", 5, sigma_min=0.05, sigma_max=20.0)
    start = 20.0 * torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    ls.calibrate(Mixture(), start, ls.build("ddim", levels), method="iia").card.save("card.json")

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

    sigmas = torch.from_numpy(levels).float()
    scope: dict[str, Any] = {"model": model, "x": 20.0 * torch.randn(2, 1, 4, 4), "sigmas": sigmas, "net": model}
    for block in blocks("docs/k-diffusion.md"):
        exec(block, scope)
    assert scope["samples"].shape == (4, 1, 28, 28)


def test_the_lines_for_a_roll_out_run(card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("new.json", "card.json"):
        (tmp_path / name).write_bytes(card.read_bytes())
    (block,) = blocks("docs/rollout.md")
    scope: dict[str, Any] = {}
    exec(block, scope)
    rollout, reference = scope["rollout"], scope["reference"]
    cards = {arm: rollout.load(arm) for arm in ("old", "new")}
    scope["tables"] = {"base": cards["new"].base_table, **{arm: card.table for arm, card in cards.items()}}
    for key in range(30):
        noise = torch.randn(1, 6, generator=torch.Generator().manual_seed(key)) * cards["new"].table.sigmas[0]
        assert scope["answer"](key, noise, Mixture()).shape == (1, 6)
    reference.close()
    assert sum(counts.requests for counts in rollout.status().counts.values()) == 30
    assert rollout.trouble is None
    rollout.close()


def test_the_lines_for_an_adaptation_run(found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that has changed is followed by what the page says, to the card's own file and back."""
    monkeypatch.chdir(tmp_path)
    found.card.save("card.json")
    learn, propose, settle = blocks("docs/adaptation.md")
    scope: dict[str, Any] = {}
    exec(learn, scope)
    moved, table = networked(Mixture(weights=(0.55, 0.45), means=(-1.3, 0.9), stds=(0.3, 0.8))), found.card.table
    for noise in noise_of(200, 5).split(1):
        scope["measure"](moved, noise, ls.sample(moved, noise, table), table, None)
        if scope["adaptation"].status().doing == "proposed":
            break
    exec(propose, scope)
    with ls.Rollout("rollout.db") as rollout:
        assert rollout.load("new") == scope["proposal"].card
        while rollout.status().status == "running":
            rollout.promote()
    exec(settle, scope)
    assert ls.load_card("card.json") == scope["proposal"].card == scope["adaptation"].card
    assert scope["adaptation"].proposal() is None
    done = CliRunner().invoke(app, ["rollback", "card.json"])
    assert done.exit_code == 0, done.output
    assert ls.load_card("card.json") == found.card
