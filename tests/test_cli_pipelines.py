"""Whole pipelines on the command line: what they are called with, what they make, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from command_line import error, invoke, run
from diffusers.utils import BaseOutput
from PIL import Image
from scipy.io import wavfile
from tiny_pipelines import STABLE_DIFFUSION, make_pipeline

from longstride.card import load_card
from longstride.cli import whole_pipelines
from longstride.cli.drawing_pipelines import Caller
from longstride.cli.pipeline_errors import refusals
from longstride.cli.pipeline_source import PipelineSampler, PipelineSource
from longstride.cli.whole_pipelines import PipelineOptions
from longstride.errors import InputError
from longstride.evaluation import load_results
from longstride.evaluation.seeds import seed_range
from longstride.integrations.diffusers import LongstrideScheduler

SIZE = ("--size", "16x16")
FEW = ("--nfe", 3, "--batch", 8, "--held-out", 8, "--method", "iia", "--substeps", 2)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with a card at guidance 3, and the same pipeline with other weights; tests do not write here."""
    place = tmp_path_factory.mktemp("pipelines")
    pipeline = make_pipeline("stable_diffusion", place / "parts")
    # Every number of steps begins elsewhere.
    spaced = {"timestep_spacing": "leading", "steps_offset": 1}
    pipeline.scheduler = diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION, **spaced)
    pipeline.save_pretrained(place / "sd")
    with torch.no_grad():
        for weight in pipeline.unet.parameters():
            weight.mul_(1.1)
    pipeline.save_pretrained(place / "other")
    (place / "prompts.txt").write_text("a cat\ntwo dogs\n")
    options = ("--guidance", 3, "--prompts", place / "prompts.txt", "--out", place / "card.json")
    run("calibrate", place / "sd", *FEW, *SIZE, *options)
    return place


@pytest.fixture
def loaded(folder: Path) -> Any:
    return whole_pipelines.load_pipeline(str(folder / "sd"), "cpu", "float32")


class Video(diffusers.DiffusionPipeline):
    """A pipeline that makes a video with sound from a picture per sample."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler)
        self.sampling_rate = 8000

    def __call__(
        self,
        image: Any,
        prompt: Any = None,
        num_frames: int = 3,
        fps: float = 5.0,
        num_inference_steps: int = 2,
        generator: Any = None,
        output_type: str = "np",
    ) -> Any:
        if num_frames > 9:
            raise RuntimeError("num_frames must be at most 9.\nSecond line")
        self.scheduler.set_timesteps(num_inference_steps)
        state = torch.randn(1, 3, 4, 4, generator=generator)
        for time in self.scheduler.timesteps:
            state = self.scheduler.step(torch.zeros_like(state), time, state).prev_sample
        colour = np.asarray(image, np.float32)[0, 0] / 255
        frames = np.broadcast_to(colour, (1, num_frames, 4, 4, 3))
        return BaseOutput(frames=frames, audio=torch.zeros(1, 2, 100))


@pytest.fixture
def video(monkeypatch: pytest.MonkeyPatch) -> Video:
    """It is loaded by every name, and no coder for videos is installed."""
    pipeline = Video(diffusers.DDIMScheduler(clip_sample=False))
    monkeypatch.setattr("longstride.cli.drawing_pipelines.load_pipeline", lambda *_: pipeline)
    monkeypatch.setattr("longstride.cli.made._ffmpeg", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return pipeline


def test_videos_and_sound_are_written(video: Video):
    for name, colour in (("a.png", (255, 0, 0)), ("b.png", (0, 0, 255))):
        Image.new("RGB", (2, 2), colour).save(name)
    pictures = ("--option", "image=a.png,b.png")
    made = json.loads(run("sample", "x", "--pipeline", *pictures, "--num", 3, "--nfe", 2, "--out", "out", "--json"))
    names = [f"out/dpmpp_2m-{n:03d}{end}" for n in range(3) for end in ("", ".wav")]
    assert made["files"] == names
    assert made["lines"][0] == "note: videos are folders of frames: for .mp4, pip install av"
    assert made["lines"][1] == "3 videos and sounds, 2 network calls each"
    for n, colour in enumerate([(255, 0, 0), (0, 0, 255), (255, 0, 0)]):
        frames = sorted(Path(f"out/dpmpp_2m-{n:03d}").iterdir())
        assert len(frames) == 3
        with Image.open(frames[2]) as frame:
            assert frame.getpixel((3, 3)) == colour
        assert wavfile.read(f"out/dpmpp_2m-{n:03d}.wav")[0] == 8000
    sheet = run("sample", "x", "--pipeline", *pictures, "--num", 2, "--nfe", 2, "--out", "sheet.png", "--json")
    assert json.loads(sheet)["files"][0] == "sheet.png"  # the middle frames
    with Image.open("sheet.png") as opened:
        assert (opened.size, opened.getpixel((0, 0)), opened.getpixel((4, 0))) == ((8, 4), (255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--option image=a.png --option num_frames=10", "Video refuses the call (RuntimeError: num_frames must be at "
         "most 9): see --option num_frames"),
        ("--option image=1", "Video refuses the call (IndexError: too many indices for array"),
        ("--prompt a", "Video needs image: give --option image=…"),
        ("--option image=a.png --option nun_frames=3", "unknown --option of Video 'nun_frames': did you mean 'num_f"),
        ("--option image=a.png --size 8x8", "Video takes no height and no width: leave --size out"),
        ("--option image=a.png --guidance 3", "Video takes no guidance_scale: leave --guidance out"),
        ("--option image=a.png --negative blue", "Video takes no negative_prompt: leave --negative out"),
    ],
)  # fmt: skip
def test_what_a_pipeline_refuses(video: Video, options: str, message: str):
    Image.new("RGB", (2, 2)).save("a.png")
    assert message in last_line("sample", "x", "--pipeline", *options.split())


def last_line(*args: object) -> str:
    """The error of a command that has begun its work."""
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    return str(result.stderr).splitlines()[-1]


def test_errors_of_longstride_keep_their_words_and_bugs_their_traceback(video: Video):
    """Whether an error is the pipeline's is told by where it was raised, below its call and not below longstride's."""

    class Wrong(Video):
        def __call__(self, **_: Any) -> None:
            self.scheduler.set_timesteps(2)
            self.scheduler.step(None, self.scheduler.timesteps[0], torch.zeros(1))

    wrong = Wrong(LongstrideScheduler())
    with pytest.raises(InputError, match="^own words$"), refusals(video, {}):
        raise InputError("own words")
    with pytest.raises(ZeroDivisionError), refusals(video, {}):
        _ = 1 / 0  # outside of the call
    with pytest.raises(AttributeError, match="NoneType"), refusals(wrong, {}):
        wrong()
    video.scheduler = None
    with (
        pytest.raises(InputError, match=r"Video refuses the call \(AttributeError: .*set_timesteps"),
        refusals(video, {}),
    ):
        video([[1]])


def test_the_batch_is_no_option_of_the_pipeline(folder: Path):
    prompts = ("--prompts", folder / "prompts.txt")
    message = last_line("calibrate", folder / "sd", *prompts, *SIZE, "--nfe", 3, "--batch", 7, "--held-out", 8)
    assert message == "error: samples and held_out must be multiples of the batch size 8, got 7 and 8"


def test_a_card_knows_the_weights_and_the_guidance(folder: Path):
    """Another pipeline or call is refused before anything is drawn, and named if it is forced."""
    options = (*SIZE, "--prompt", "a", "--num", 1, "--card", folder / "card.json")
    message = error("sample", folder / "other", *options)
    assert "unet has other weights" in message
    assert "--any-model" in message
    assert "note: this card was made for something else: unet has other weights" in run(
        "sample", folder / "other", *options, "--any-model"
    )
    assert "guidance_scale is 4.0, the card's 3.0" in error("sample", folder / "sd", *options, "--guidance", 4)
    assert "height is 24, the card's 16" in error("sample", folder / "sd", *options[2:], "--size", "24x24")
    for name, given in (("own", ()), ("said", ("--guidance", 3))):
        assert "note" not in run("sample", folder / "sd", *options, *given, "--out", f"{name}.png")
    assert Path("own.png").read_bytes() == Path("said.png").read_bytes()


def source_of(pipeline: Any, *, decoded: bool = False, many: int = 48) -> PipelineSource:
    caller = Caller(pipeline, ["a cat", "two dogs"], PipelineOptions(None, "16x16", "float32"), 3.0)
    return PipelineSource(caller, pipeline.scheduler, PipelineSampler(3, many=many), decoded, 3.0, None)


def test_a_sample_of_a_study_is_an_ordinary_call(loaded: Any):
    """In latents and in pictures; and the pipeline's own scheduler stands in its place afterwards."""
    own, seed = loaded.scheduler, 5
    options = {"height": 16, "width": 16, "guidance_scale": 3.0, "num_inference_steps": 4}
    drawn = {d: source_of(loaded, decoded=d).draw(PipelineSampler(4, "dpmpp_2m"), seed) for d in (False, True)}
    assert loaded.scheduler is own
    loaded.scheduler = LongstrideScheduler.from_config(own.config, solver="dpmpp_2m")
    for decoded, kind in ((False, "latent"), (True, "np")):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.as_tensor(loaded("two dogs", generator=generator, output_type=kind, **options).images[0])
        expected = 2 * expected.permute(2, 0, 1) - 1 if decoded else expected
        torch.testing.assert_close(drawn[decoded].values, expected, rtol=0, atol=0)
        assert drawn[decoded].calls == 4


def test_the_converged_run_is_where_the_solvers_go(loaded: Any):
    """From the same noise at the same level, to the same level; half of its calls tell its own error."""
    source = source_of(loaded)
    batch = source.batch(range(8, 10))
    target, own_error, calls = batch.converged(check=1)
    assert calls == 48 * 2
    table = source.draw(PipelineSampler(3), 8)
    errors = {3: float((table.values - target[0]).square().mean().sqrt())}
    for many in (12, 24):
        drawn = source.draw(PipelineSampler(3, many=many), 8)
        assert (drawn.calls, drawn.ends) == (many, pytest.approx(table.ends, rel=1e-12))
        errors[many] = float((drawn.values - target[0]).square().mean().sqrt())
    assert max(errors[12], errors[24]) < 0.5 * errors[3]
    assert own_error == pytest.approx(errors[24], rel=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "flux"])
def test_converged_runs_of_other_processes(name: str, tmp_path: Path):
    """From the highest level of a noise schedule, where few levels would not do, and of a flow: solvers come nearer."""
    pipeline = make_pipeline(name, tmp_path)
    prompts, size = ([], None) if name == "ddpm" else ([], "16x16")
    for given, shape in (("prompt_embeds", (1, 5, 16)), ("pooled_prompt_embeds", (1, 8))):
        np.save(f"{given}.npy", np.random.default_rng(3).normal(size=shape).astype(np.float32))
    texts = [] if name == "ddpm" else [f"{one}=@{one}.npy" for one in ("prompt_embeds", "pooled_prompt_embeds")]
    caller = Caller(pipeline, prompts, PipelineOptions(None, size, "float32", texts), None)
    source = PipelineSource(caller, pipeline.scheduler, PipelineSampler(4, many=64), False, None, None)
    target, own_error, _ = source.batch(range(8, 9)).converged(check=1)
    few, more, many = (
        float((source.draw(PipelineSampler(steps, "dpmpp_2m"), 8).values - target[0]).square().mean().sqrt())
        for steps in (4, 8, 32)
    )
    assert few > 1.5 * more > 3 * many
    assert own_error < 0.25 * few  # of random weights: their velocity is even in sigma, where levels are not


@pytest.mark.slow
def test_a_pipeline_is_evaluated(folder: Path):
    """As by hand: the error of every sampler to the converged run from the same noise, the base and the card paired."""
    options = ("--prompts", folder / "prompts.txt", *SIZE, "--samples", 6, "--reference-steps", 24)
    output = run(
        "evaluate", folder / "sd", *options, "--card", folder / "card.json", "--nfe", 3, "--solvers", "ddim,heun"
    )
    assert all(word in output for word in ("card (base)", "DDIM", "Heun", "24 calls"))
    results = load_results(Path("evaluation/results.json"))
    assert results.contestants == ["card (base)", "card", "ddim", "heun"]
    base, found = (results.value(name, 3, "rmse") for name in ("card (base)", "card"))
    assert found.change == pytest.approx(found.value - base.value)
    assert results.value("ddim", 3, "rmse").value == pytest.approx(base.value, rel=1e-4)  # the base is DDIM
    card = load_card(folder / "card.json")
    assert base.value == pytest.approx(card.end.base.rmse, rel=0.1)
    assert found.value == pytest.approx(card.end.calibrated.rmse, rel=0.1)
    assert 0 <= results.value("card", 3, "worse_2").value <= 1
    assert results.about["reference"]["nfe"] == 24
    again = {file: file.stat().st_mtime_ns for file in Path("evaluation/work").rglob("*.npz")}
    run("evaluate", folder / "sd", *options, "--card", folder / "card.json", "--nfe", 3, "--solvers", "ddim,heun")
    assert {file: file.stat().st_mtime_ns for file in again} == again
    pipeline = whole_pipelines.load_pipeline(str(folder / "sd"), "cpu", "float32")
    source = source_of(pipeline, many=24)
    squares = []
    for seed in seed_range("evaluation", 0, 6):
        one, target = (
            source.draw(PipelineSampler(3), seed).values,
            source.draw(PipelineSampler(3, many=24), seed).values,
        )
        squares.append(float((one - target).square().mean()))
    assert results.value("ddim", 3, "rmse").value == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)


@pytest.mark.slow
def test_decoded_pictures_have_distances(folder: Path):
    options = ("--prompts", folder / "prompts.txt", *SIZE, "--samples", 6, "--reference-steps", 12, "--guidance", 3)
    run("evaluate", folder / "sd", *options, "--nfe", "3,4", "--solvers", "ddim", "--decoded", "--dimensions", 2)
    results = load_results(Path("evaluation/results.json"))
    assert results.about["reference"]["runs"] == 2  # 3 and 4 steps begin at levels of their own
    assert all(results.value("ddim", nfe, "fd_teacher").value > 0 for nfe in (3, 4))
    assert results.value("teacher", 12, "fd_teacher").value > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--solvers gauss_newton", "gauss_newton would have to be calibrated: make a card of this pipeline"),
        ("--solvers ,", "a study needs a contestant or a card"),
        ("--dimensions 64 --samples 64", "a Fréchet distance in 64 dimensions needs more than 64 samples"),
        ("--dimensions 2 --samples 4 --size 16x16", "Fréchet distances compare pictures, and samples have shape "
         "(4, 8, 8): say --decoded"),
        ("--card {card} --guidance 4 --size 16x16", "guidance_scale is 4.0, the card's 3.0"),
        ("--option clip_skp=1", "unknown --option of StableDiffusionPipeline 'clip_skp': did you mean 'clip_skip'"),
    ],
)  # fmt: skip
def test_bad_options_of_evaluate(folder: Path, options: str, message: str):
    prompts = ("--pipeline", "--nfe", 3, "--prompts", folder / "prompts.txt")
    assert message in error("evaluate", folder / "sd", *prompts, *options.format(card=folder / "card.json").split())
