"""Loading models: the bundled ones, diffusers folders of every kind, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from model_folders import edit, refusal
from tiny_models import save_tiny_model, tiny_unet

import longstride as ls
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


def test_unknown_names():
    assert "did you mean 'garments' or 'garments_flow'?" in refusal("garment")
    assert refusal("./no/such/folder") == "no such folder: ./no/such/folder"
    assert refusal("~nobody-of-that-name/model") == "no such folder: ~nobody-of-that-name/model"
    assert "unknown galaxy network 'hsc23'" in refusal("galaxy:hsc23")


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
