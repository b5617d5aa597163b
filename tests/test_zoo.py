"""Loading models: the bundled one, diffusers folders of every kind, and what is wrong with a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_models import save_tiny_model, tiny_unet

import longstride as ls
from longstride.zoo.conditioning import ClassLabels
from longstride.zoo.model import BUNDLED


@pytest.fixture(scope="module")
def garments() -> ls.Model:
    return ls.load_model("garments")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", null_class=2)


@pytest.fixture
def tiny(folder: Path) -> ls.Model:
    return ls.load_model(folder)


# The bundled model


def test_the_bundled_model(garments: ls.Model):
    assert (garments.name, garments.shape, garments.device.type) == ("garments", (1, 28, 28), "cpu")
    assert (garments.num_classes, garments.null_class, len(garments.class_names)) == (10, 10, 10)
    assert isinstance(garments.network, diffusers.UNet2DModel)
    assert not garments.network.training
    assert not any(weight.requires_grad for weight in garments.network.parameters())
    clean = garments.denoiser(range(2))(garments.noise(range(2), 1.0), 1.0)
    assert clean.shape == (2, 1, 28, 28)
    assert clean.isfinite().all()


def test_diffusers_loads_the_bundled_model(garments: ls.Model):
    pipeline = diffusers.DDPMPipeline.from_pretrained(BUNDLED["garments"])
    theirs, ours = pipeline.unet.state_dict(), garments.network.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_diffusers_loads_the_bundled_flow_and_its_velocity_is_read_as_such():
    model = ls.load_model("garments_flow")
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(BUNDLED["garments_flow"], subfolder="transformer").eval()
    assert (model.schedule.family, model.prediction, model.shape, model.null_class) == ("flow", "flow", (1, 28, 28), 10)
    x, sigma = model.noise(range(2), 1.0), 0.5
    with torch.no_grad():
        u = theirs(x, torch.full((2,), 500.0), class_labels=model.labels(range(2))).sample
        torch.testing.assert_close(model.denoiser(range(2))(x, sigma), x - sigma * u, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "most"), [("garments", 10_000_000), ("garments_flow", 6_000_000)])
def test_the_bundled_models_are_small_and_safe(name, most):
    files = [file for file in BUNDLED[name].rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".npz"}
    assert sum(file.stat().st_size for file in files) <= most


# Folders


def by_hand(kind: str, out: torch.Tensor, x_t: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    formulas = {"epsilon": (x_t - sigma * out) / alpha, "v_prediction": alpha * x_t - sigma * out, "sample": out}
    return formulas[kind]


VARIANTS: list[dict[str, Any]] = [
    {"prediction": "epsilon"},
    {"prediction": "v_prediction"},
    {"prediction": "sample"},
    {"prediction": "epsilon", "classes": None},
    {"prediction": "epsilon", "learned_variance": True},
    {"prediction": "v_prediction", "root": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_kind_of_folder_predicts_the_clean_picture(tmp_path: Path, variant: dict[str, Any]):
    model = ls.load_model(save_tiny_model(tmp_path, **variant))
    unet = tiny_unet(**{name: value for name, value in variant.items() if name in ("classes", "learned_variance")})
    classes = 3 if variant.get("classes", 3) else 0
    assert (model.shape, model.num_classes, model.null_class) == ((1, 8, 8), classes, None)
    t, seeds = 600, range(5, 9)
    bar = float(diffusers.DDPMScheduler().alphas_cumprod[t])
    alpha, sigma = bar**0.5, (1 - bar) ** 0.5
    labels = {"class_labels": torch.tensor([2, 0, 1, 2])} if classes else {}
    x = model.noise(seeds, sigma / alpha)
    with torch.no_grad():
        out = unet(x * alpha, t, **labels).sample[:, :1]
        clean = model.denoiser(seeds)(x, sigma / alpha)
    expected = by_hand(variant["prediction"], out, x * alpha, alpha, sigma)
    torch.testing.assert_close(clean, expected, rtol=1e-4, atol=1e-4)


def test_clean_pictures_are_clamped_where_the_scheduler_says_so(folder: Path, tiny: ls.Model):
    diffusers.DDPMScheduler(prediction_type="v_prediction", clip_sample=True).save_pretrained(folder / "scheduler")
    x = tiny.noise(range(4), 50.0)
    free, clamped = (model.denoiser(range(4))(x, 50.0) for model in (tiny, ls.load_model(folder)))
    assert free.abs().max() > 1
    assert torch.equal(clamped, free.clamp(-1, 1))


def test_a_setting_that_the_scheduler_does_not_know_is_not_obeyed(folder: Path, tiny: ls.Model):
    """A DPM-Solver scheduler keeps ``clip_sample`` of the DDPM one it was made from, and never clamps."""
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", beta_schedule="linear")
    scheduler.save_pretrained(folder / "scheduler")
    edit(folder / "scheduler" / "scheduler_config.json", clip_sample=True)
    edit(folder / "model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])
    assert ls.load_model(folder).clip is None


def test_precision_of_the_weights(folder: Path):
    model = ls.load_model(folder, dtype=torch.bfloat16)
    x = model.noise(range(2), 1.0)
    assert x.dtype == torch.float32
    assert model.denoiser(range(2))(x, 1.0).dtype == torch.float32


# Identity, noise and labels


def test_the_fingerprint_is_that_of_the_weights(folder: Path, tiny: ls.Model, tmp_path: Path):
    moved = ls.load_model(shutil.copytree(folder, tmp_path / "moved"))
    assert moved.fingerprint == tiny.fingerprint == moved.info().fingerprint
    with torch.no_grad():
        next(moved.network.parameters()).view(-1)[0] += 1e-3
    assert replace(moved).fingerprint != tiny.fingerprint


def test_noise_of_a_sample_depends_on_its_own_seed_alone(tiny: ls.Model):
    many = tiny.noise(range(10, 18), 3.0)
    assert torch.equal(tiny.noise(range(13, 15), 3.0), many[3:5])
    assert torch.equal(tiny.noise(range(10, 18), 1.0) * 3.0, many)
    assert len(many.flatten(1).unique(dim=0)) == 8


def test_labels_follow_the_seeds(tiny: ls.Model, tmp_path: Path):
    assert tiny.num_classes == 2  # the third is the null class
    assert tiny.labels(range(3, 7)).tolist() == [1, 0, 1, 0]
    assert ls.load_model(save_tiny_model(tmp_path / "plain", classes=None)).labels(range(4)) is None


def test_given_labels_replace_those_of_the_seeds(tiny: ls.Model):
    x = tiny.noise(range(4), 1.0)
    chosen = tiny.denoiser(range(4), labels=torch.tensor([1, 0, 1, 0]))(x, 1.0)
    assert torch.equal(chosen, tiny.denoiser(range(1, 5))(x, 1.0))
    assert not torch.equal(chosen, tiny.denoiser(range(4))(x, 1.0))


def test_guidance_costs_two_and_extrapolates(tiny: ls.Model):
    """On a v prediction, guidance of the output is guidance of the clean picture: both are affine in each other."""
    seeds, x = range(4), tiny.noise(range(4), 1.0)
    guided = tiny.denoiser(seeds, guidance=3.0)
    unconditional = replace(tiny, conditioning=ClassLabels(3)).denoiser(seeds, labels=torch.full((4,), 2))(x, 1.0)
    conditional = tiny.denoiser(seeds)(x, 1.0)
    torch.testing.assert_close(guided(x, 1.0), unconditional + 3.0 * (conditional - unconditional))
    assert (guided.cost, guided.calls, tiny.denoiser(seeds).cost) == (2, 8, 1)


def test_selecting_samples_cuts_their_labels(tiny: ls.Model):
    x, part = tiny.noise(range(6), 1.0), slice(1, 4)
    for guidance in (None, 2.0):
        denoiser = tiny.denoiser(range(6), guidance)
        cut = denoiser.select(part)
        assert cut.condition["class_labels"].tolist() == [1, 0, 1]
        torch.testing.assert_close(cut(x[part], 1.0), denoiser(x, 1.0)[part])


def test_wrong_labels_and_guidance(tiny: ls.Model, tmp_path: Path):
    with pytest.raises(ls.InputError, match="has classes 0 … 1, got label -1, 2"):
        tiny.denoiser(range(3), labels=torch.tensor([-1, 2, 0]))
    with pytest.raises(ls.InputError, match="guidance must be a finite number, got nan"):
        tiny.denoiser(range(2), guidance=float("nan"))
    plain = ls.load_model(save_tiny_model(tmp_path / "plain", classes=None))
    with pytest.raises(ls.InputError, match="has no classes, got label 0"):
        plain.denoiser(range(1), labels=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ls.InputError, match="cannot be guided: it has no unconditional class"):
        plain.denoiser(range(1), guidance=2.0)


# What is wrong with a folder


def refusal(source: str | Path) -> str:
    with pytest.raises(ls.InputError) as caught:
        ls.load_model(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_unknown_names():
    assert "did you mean 'garments' or 'garments_flow'?" in refusal("garment")
    assert refusal("./no/such/folder") == "no such folder: ./no/such/folder"
    assert refusal("~nobody-of-that-name/model") == "no such folder: ~nobody-of-that-name/model"
    assert "unknown galaxy network 'hsc23'" in refusal("galaxy:hsc23")


def test_a_folder_that_is_no_model(tmp_path: Path, folder: Path):
    assert refusal(tmp_path / "model" / "unet").endswith("put it into a folder unet/ beside a folder scheduler/")
    assert "model_index.json is missing" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "model_index.json is missing (the folder is empty)" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "config.json"])
def test_missing_network(folder: Path, name: str):
    (folder / "unet" / name).unlink()
    message = refusal(folder)
    assert "cannot load the unet" in message
    assert name in message


def test_missing_scheduler(folder: Path):
    shutil.rmtree(folder / "scheduler")
    message = refusal(folder)
    assert "cannot load the scheduler" in message
    assert "scheduler_config.json" in message


@pytest.mark.parametrize("size", [0, 4, 100, 5000])
def test_weights_that_were_cut_short(folder: Path, size: int):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert "cannot load the unet" in refusal(folder)


def test_weights_of_another_network(folder: Path):
    edit(folder / "unet" / "config.json", block_out_channels=[16])
    assert "cannot load the unet" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_an_index_that_is_no_json(folder: Path, text: str):
    (folder / "model_index.json").write_text(text)
    assert "cannot read" in refusal(folder)


@pytest.mark.parametrize("index", [[], 3, {}, {"unet": ["diffusers", "UNet2DModel"]}, {"unet": [None, None]}])
def test_an_index_without_the_parts(folder: Path, index: object):
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "names no scheduler with a unet or transformer" in refusal(folder)


@pytest.mark.parametrize(("part", "kind"), [("unet", "UNet9DModel"), ("scheduler", "DDPMSchedule")])
def test_a_class_that_diffusers_does_not_have(folder: Path, part: str, kind: str):
    edit(folder / "model_index.json", **{part: ["diffusers", kind]})
    assert f"has no class {kind} (for the {part} in {folder / part})" in refusal(folder)


def test_weights_that_are_pickles_are_not_read(folder: Path):
    """The command in the message converts them."""
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    before = ls.load_model(folder).fingerprint
    diffusers.UNet2DModel.from_pretrained(folder / "unet").save_pretrained(folder / "unet", safe_serialization=False)
    weights.unlink()
    message = refusal(folder)
    assert "diffusion_pytorch_model.safetensors is missing" in message
    assert "diffusion_pytorch_model.bin is not read, because a pickle can run code" in message
    exec(message.partition('python -c "')[2].removesuffix('"'))
    assert ls.load_model(folder).fingerprint == before


def test_weights_under_another_name(folder: Path):
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.fp16.safetensors")
    assert "there is diffusion_pytorch_model.fp16.safetensors: rename it" in refusal(folder)


def test_a_flow_prediction_needs_a_flow(folder: Path):
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="flow_prediction")
    assert "a flow prediction with a DDPMScheduler, whose noise schedule is no flow" in refusal(folder)


def test_dynamic_thresholding_is_refused(folder: Path):
    edit(folder / "scheduler" / "scheduler_config.json", thresholding=True)
    assert "asks for dynamic thresholding" in refusal(folder)


def test_an_unknown_prediction_type(folder: Path):
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_predict")
    assert "did you mean 'v_prediction'" in refusal(folder)


def test_an_unknown_size_of_a_sample(folder: Path):
    edit(folder / "unet" / "config.json", sample_size=None)
    assert "set sample_size" in refusal(folder)


def test_a_null_class_that_is_not_the_last(folder: Path):
    edit(folder / "model_index.json", _null_class=7)
    assert "_null_class must be the last of the 3 classes" in refusal(folder)


def test_latents_are_no_pictures(tiny: ls.Model):
    tiny.check_pictures()
    with pytest.raises(ls.InputError, match="only 1 or 3 channels can be drawn"):
        replace(tiny, shape=(4, 8, 8)).check_pictures()


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 32), (2, 28, 28)])
def test_noise_of_another_shape_is_refused_by_name(shape):
    model = ls.load_model("garments")
    table = ls.build("ddim", [10.0, 1.0, 0.1])
    with pytest.raises(ls.InputError, match=r"takes states of shape \(B, 1, 28, 28\), got \(2, "):
        ls.sample(model.denoiser(range(2)), torch.zeros(shape), table)
    with pytest.raises(ls.InputError, match="'class_labels' holds 3 entries for a batch of 2"):
        ls.sample(model.denoiser(range(3)), torch.zeros(2, 1, 28, 28), table)


@pytest.mark.parametrize("size", [2, 10, 100, 101, 1000, 1001])
def test_seeds_in_a_row_spread_over_all_classes(size):
    """Every class once in as many seeds as there are classes; of many, a few seeds fall into every tenth of them."""
    model = replace(ls.load_model("garments"), conditioning=ClassLabels(size, None))
    labels = model.labels(range(7, 7 + size)).tolist()
    assert sorted(labels) == list(range(size))
    assert (labels[:2] == [n % size for n in (7, 8)]) == (size <= 100)
    if size > 100:
        assert {label * 10 // size for label in labels[:20]} == set(range(10))
