"""The survey of pipelines: what a trial calls the same, what it calls a fault, and what becomes of a survey."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from tiny_pipelines import make_pipeline

from benchmarks.pages import fill
from benchmarks.pipelines import sampling
from benchmarks.pipelines.calibrating import calibration_trials, call_of
from benchmarks.pipelines.catalogue import catalogue, required, taken
from benchmarks.pipelines.page import pipeline_sections, pipeline_table, untried_table
from benchmarks.pipelines.parts import Built
from benchmarks.pipelines.records import Outcome, Record, load_records, of_error, save_records
from benchmarks.pipelines.sampling import Drawing, Seen, matching_solver, relative, sampling_trial, watched
from longstride.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


class Described:
    """Inputs of a tiny pipeline, in the place of a class of diffusers' tests."""

    pipeline = "tiny"

    def __init__(self, **inputs: Any) -> None:
        self.inputs = inputs

    def made(self) -> Any:
        return SimpleNamespace(get_dummy_inputs=lambda: dict(self.inputs))


def drawing_of(pipeline: Any, **inputs: Any) -> Drawing:
    return Drawing(Built(pipeline, Described(**inputs)))  # type: ignore[arg-type]


@pytest.fixture
def stable_diffusion(tmp_path: Path) -> Any:
    pipeline = make_pipeline("stable_diffusion", tmp_path)
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    return pipeline


TEXT = {"prompt": "a cat", "guidance_scale": 3.0, "height": 16, "width": 16, "output_type": "np"}


# Sampling


def test_the_same_state_is_the_same_and_another_solver_differs(stable_diffusion: Any, monkeypatch: pytest.MonkeyPatch):
    drawing = drawing_of(stable_diffusion, **TEXT)
    assert drawing.failure is None
    found = sampling_trial(drawing)
    assert found.status == "same"
    assert found.difference is not None
    assert found.difference < 2e-5
    monkeypatch.setattr(sampling, "matching_solver", lambda scheduler: "ddim")
    other = sampling_trial(drawing)
    assert other.status == "differs"
    assert other.difference is not None
    assert other.difference > 1e-3


def test_documented_decisions_are_set_in_both(tmp_path: Path):
    pipeline = make_pipeline("ddim", tmp_path)
    pipeline.scheduler = diffusers.DDIMScheduler(clip_sample=True)
    found = sampling_trial(drawing_of(pipeline, batch_size=1, output_type="np"))
    assert (found.status, found.remark) == ("same", "with clip_sample=False in both")


def test_a_run_that_begins_late_is_compared_whole_with_pndm(tmp_path: Path):
    pipeline = make_pipeline("img2img", tmp_path)
    pipeline.scheduler = diffusers.PNDMScheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True)
    inputs = {"prompt": "a", "image": torch.rand(1, 3, 16, 16), "output_type": "latent"}
    late = sampling_trial(drawing_of(pipeline, strength=0.75, **inputs))
    assert (late.status, late.remark[:16]) == ("same", "with strength=1:")
    assert sampling_trial(drawing_of(pipeline, strength=1.0, **inputs)).remark == ""


def test_a_pipeline_that_does_not_run_says_why(stable_diffusion: Any):
    assert "prompt" in str(drawing_of(stable_diffusion, height=16, width=16).failure)


@pytest.mark.parametrize(
    ("scheduler", "solver"),
    [
        (diffusers.DPMSolverMultistepScheduler(), "dpmpp_2m"),
        (diffusers.DPMSolverMultistepScheduler(solver_order=3), "dpmpp_3m"),
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), None),
        (diffusers.UniPCMultistepScheduler(), "unipc"),
        (diffusers.LCMScheduler(), None),
    ],
)  # fmt: skip
def test_the_solver_of_a_scheduler(scheduler: Any, solver: str | None):
    assert matching_solver(scheduler) == solver


def test_a_watched_scheduler_and_its_copies_write_their_steps_down():
    scheduler, seen = diffusers.FlowMatchEulerDiscreteScheduler(), list[Seen]()
    watched(scheduler, seen)
    scheduler.set_timesteps(2)
    state, output = torch.ones(1, 2), torch.full((1, 2), 0.5)
    following = scheduler.step(output, scheduler.timesteps[0], state).prev_sample
    assert type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    (one,) = seen
    assert torch.equal(one.output, output)
    assert torch.equal(one.state, state)
    assert torch.equal(one.following, following)


def test_relative_differences():
    expected = torch.tensor([0.0, -4.0])
    assert relative(torch.tensor([1.0, -4.0]), expected) == 0.25
    assert relative(torch.zeros(3), expected) == float("inf")
    assert relative(torch.tensor([float("nan"), 0.0]), expected) == float("inf")


# Calibration


def test_a_pipeline_is_calibrated_as_the_function_that_it_is(stable_diffusion: Any):
    found = dict(calibration_trials(drawing_of(stable_diffusion, **TEXT)))
    words = {name: outcome.status for name, outcome in found.items()}
    assert words == {"calibration": "calibrated", "next_call": "same", "card": "used", "function": "same"}
    assert found["function"].difference is not None
    assert found["function"].difference <= 1e-5


def test_what_a_calibration_leaves_behind_is_found(stable_diffusion: Any):
    def wear(network: torch.nn.Module, args: Any) -> None:
        next(network.parameters()).data.mul_(1.01)

    stable_diffusion.unet.register_forward_pre_hook(wear)
    found = dict(calibration_trials(drawing_of(stable_diffusion, **TEXT)))
    assert found["next_call"].status == "differs"
    assert found["next_call"].difference


class Toy:
    """A pipeline that draws nothing, and minds how it is called."""

    def __init__(self, lists: bool) -> None:
        self.scheduler, self.lists = diffusers.FlowMatchEulerDiscreteScheduler(), lists

    def __call__(self, prompt: Any, image: Any, generator: Any = None, num_inference_steps: int = 4) -> Any:
        if isinstance(prompt, list) and not (self.lists and isinstance(image, list)):
            raise ValueError("one picture for every prompt")
        return (torch.zeros(1),)


def test_pictures_are_given_for_every_sample_where_one_does_not_serve():
    picture = Image.new("RGB", (4, 4))
    many = call_of(drawing_of(Toy(lists=True), prompt="a cat", image=picture))
    assert (many.samples, many.single, many.per_sample["image"]) == (2, False, [picture, picture])
    one = call_of(drawing_of(Toy(lists=False), prompt="a cat", image=picture))
    assert (one.samples, one.single) == (1, True)
    assert one.arguments(Toy(lists=False))["prompt"] == "a cat"


# Records and pages


def test_errors_are_refusals_or_faults():
    assert of_error(InputError("this option is\nfor others")) == Outcome("refused", "this option is for others")

    def fails() -> None:
        raise IndexError("out of\nrange")

    with pytest.raises(IndexError) as caught:
        fails()
    line = fails.__code__.co_firstlineno + 1
    assert of_error(caught.value) == Outcome("fault", f"IndexError: out of at test_pipeline_survey.py:{line}")


RECORDS = [
    Record(
        "APipeline", "one", False, "DDIMScheduler", "vp", None,
        {
            "sampling": Outcome("same", "", 0.0),
            "calibration": Outcome("calibrated"),
            "card": Outcome("used"),
            "function": Outcome("same", "", 2e-7),
            "next_call": Outcome("same"),
            "command": Outcome("not tried", "another"),
        },
    ),
    Record(
        "BPipeline", "one", True, "LCMScheduler", None, None,
        {
            "sampling": Outcome("differs", "a | b", 0.5),
            "calibration": Outcome("refused", "it is LCM"),
            "card": Outcome("fault", "it is LCM"),
        },
    ),
    Record("CPipeline", "two", False, reason="it has no scheduler"),
]  # fmt: skip


def test_records_come_back(tmp_path: Path):
    save_records(tmp_path / "r.json", RECORDS, {"diffusers": "1"})
    assert load_records(tmp_path / "r.json") == RECORDS
    assert [record.tried for record in RECORDS] == [True, True, False]


def test_tables_say_what_was_found(tmp_path: Path):
    tried = pipeline_table(RECORDS).splitlines()
    assert tried[2:] == [
        "| one | APipeline | DDIMScheduler, vp | same | calibrated | used | same | same | – |  |",
        "|  | BPipeline | LCMScheduler | **differs** 5e-01 | refused | **fault** | – | – | – "
        "| sampling: a \\| b; calibration, card: it is LCM |",
    ]
    assert untried_table(RECORDS).splitlines()[2:] == ["| CPipeline | it has no scheduler |"]
    save_records(tmp_path / "pipelines.json", RECORDS, {"diffusers": "1.2"})
    said = pipeline_sections(tmp_path / "pipelines.json")["pipelines:summary"]()
    assert said.startswith("diffusers 1.2:")
    figures = [line.split(" | ")[-1].rstrip(" |") for line in said.splitlines()[4:]]
    assert figures == ["3", "2", "1", "1", "0", "1", "1", "1", "1", "2e-07", "1", "0", "1"]


def test_the_page_holds_the_results():
    results = ROOT / "benchmarks" / "results" / "pipelines.json"
    assert fill(ROOT / "docs" / "pipelines.md", pipeline_sections(results), check=True)


# The command


def test_the_catalogue_holds_deprecated_and_modular_classes():
    found = {entry.name: entry for entry in catalogue()}
    assert found["FluxPipeline"].family == "flux"
    assert found["RePaintPipeline"].family == "repaint"
    assert found["FluxModularPipeline"].modular
    assert "DiffusionPipeline" not in found
    assert found["FluxPipeline"].pipeline_class is diffusers.FluxPipeline


def test_arguments_that_are_needed():
    def call(self: Any, a: int, b: int = 2, *args: int, **others: int) -> None: ...

    assert (taken(call), required(call)) == ({"a", "b"}, {"a"})


PARTS = """
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel


class TinyTests:
    pipeline_class = DDIMPipeline

    def get_dummy_components(self):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )
        return {"unet": unet, "scheduler": DDIMScheduler(clip_sample=False)}

    def get_dummy_inputs(self, device, seed=0):
        return {"batch_size": 1, "generator": torch.Generator(device).manual_seed(seed), "output_type": "np"}
"""


@pytest.mark.slow
def test_a_survey_is_written_and_goes_on(tmp_path: Path):
    folder = tmp_path / "tests" / "pipelines" / "ddim"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent, folder.parent.parent):
        (place / "__init__.py").touch()
    (folder / "test_ddim.py").write_text(PARTS)
    out = tmp_path / "out" / "pipelines.json"
    # A class that is finished is not tried again.
    (out.parent / "work").mkdir(parents=True)
    finished = Record("FluxPipeline", "flux", False, reason="told before")
    save_records(out.parent / "work" / "pipelines.json", [finished], {})
    names = ("DDIMPipeline", "DDPMPipeline", "FluxPipeline", "LTXLatentUpsamplePipeline")
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "pipelines",
        "--tests",
        tmp_path,
        "--out",
        out,
        "--trial",
        "sampling",
    ]
    command += [word for name in names for word in ("--only", name)]
    result = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    ddim, ddpm, flux, upsample = load_records(out)
    assert (ddim.trials["sampling"].status, ddim.scheduler, ddim.process) == ("same", "DDIMScheduler", "vp")
    assert ddpm.trials["sampling"].status == "same"  # of DDIMPipeline's parts
    assert flux == finished
    assert "no tests of diffusers describe its parts" in str(upsample.reason)
    assert result.stdout.splitlines()[0].startswith("1/4 DDIMPipeline: sampling same")
    assert json.loads(out.read_text())["about"]["diffusers"] == diffusers.__version__
    assert not (out.parent / "work" / "pipelines.json").exists()


def test_a_later_survey_of_other_trials_keeps_the_trials_before() -> None:
    before = Record("A", "a", False, trials={"sampling": Outcome("same"), "command": Outcome("fault")})
    later = Record("A", "a", False, trials={"command": Outcome("works")}).after(before)
    assert later.trials == {"sampling": Outcome("same"), "command": Outcome("works")}
    assert Record("A", "a", False, reason="it has no scheduler").after(before).trials == {}
    assert Record("A", "a", False, trials=before.trials).after(None).trials == before.trials
