"""What is wrong with a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
from model_folders import edit, refusal
from tiny_models import save_tiny_model

import longstride as ls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", null_class=2)


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
