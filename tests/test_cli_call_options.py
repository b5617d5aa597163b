"""``--option key=value``: what a value becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from longstride.cli.call_options import call_options, taken_by
from longstride.errors import InputError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(name: str, colour: Any = (255, 0, 0), mode: str = "RGB") -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Image.new(mode, (4, 2), colour).save(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_frames=9", 9),
        ("true_cfg_scale=2.5", 2.5),
        ("clean=true", True),
        ("image=null", None),
        ("skip_layers=[7, 8]", [7, 8]),
        ('attention={"scale": 0.5}', {"scale": 0.5}),
        ("mode=bilinear = yes", "bilinear = yes"),
        ('mode="7"', "7"),
        ("mode=", ""),
        ("image=missing.png", "missing.png"),
    ],
)
def test_json_or_text(text: str, expected: Any):
    found = call_options([text])
    assert (dict(found.shared), dict(found.per_sample)) == ({text.partition("=")[0]: expected}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt_2=a cat", ["a cat"]),
        ('prompt_2=["a", "b"]', ["a", "b"]),
        ("negative_prompt_2=blue", ["blue"]),
        ("class_labels=7", [7]),
        ("class_labels=[1, 7]", [1, 7]),
    ],
)
def test_prompts_and_classes_have_one_entry_per_sample(text: str, expected: list[Any]):
    found = call_options([text])
    assert (dict(found.shared), dict(found.per_sample)) == ({}, {text.partition("=")[0]: expected})


def test_pictures_take_turns():
    """A file with or without @, several with commas, or a folder in the order of its names."""
    for name, colour in (("a.png", (1, 0, 0)), ("in/2.png", (2, 0, 0)), ("in/1.png", (3, 0, 0))):
        picture(name, colour)
    Path("in/notes.txt").write_text("no picture")
    for text, expected in (
        ("image=@a.png", [1]),
        ("image=a.png", [1]),
        ("image=in/2.png,a.png", [2, 1]),
        ("image=@in/2.png,a.png", [2, 1]),
        ("image=@in", [3, 2]),
    ):
        found = call_options([text])
        reds = [one.getpixel((0, 0))[0] for one in found.per_sample["image"]]
        assert (reds, found.shared) == (expected, {})
        assert [found.of(n)["image"].getpixel((0, 0))[0] for n in range(3)] == [(expected * 3)[n] for n in range(3)]


def test_pictures_are_colour_or_grey():
    picture("mask.png", 200, "L")
    picture("clear.png", (9, 8, 7, 0), "RGBA")
    found = call_options(["mask_image=mask.png", "image=clear.png"])
    assert (found.per_sample["mask_image"][0].mode, found.per_sample["image"][0].mode) == ("L", "RGB")


def test_tensors_have_one_entry_per_sample_along_their_first_axis():
    embeds = torch.arange(12.0).reshape(2, 3, 2)
    save_file({"prompt_embeds": embeds, "other": embeds + 1}, "both.safetensors")
    save_file({"any": embeds + 2}, "one.safetensors")
    np.save("array.npy", embeds.numpy() + 3)
    np.save("levels.npy", np.array([1.0, 0.5]))
    found = call_options(
        ["prompt_embeds=@both.safetensors", "b=@one.safetensors", "c=@array.npy", "sigmas=@levels.npy"]
    )
    assert found.shared == {"sigmas": [1.0, 0.5]}
    for name, plus in (("prompt_embeds", 0), ("b", 2), ("c", 3)):
        torch.testing.assert_close(found.of(3)[name], embeds[1:] + plus, rtol=0, atol=0)


class Pipeline:
    """A pipeline that takes a few arguments."""

    def __call__(self, image: Any, prompt: Any = None, num_frames: int = 9, guidance_scale: float = 1.0) -> None: ...


class Lax(Pipeline):
    """A pipeline that passes over what it does not know."""

    def __call__(self, image: Any = None, num_frames: int = 9, **others: Any) -> None: ...


class Open:
    """A pipeline that takes anything."""

    def __call__(self, **anything: Any) -> None: ...


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["num_frames"], "expected --option key=value"),
        (["num frames=3"], "expected --option key=value"),
        (["a=1", "a=2"], "--option a is given twice"),
        (["prompt=a cat"], "--option prompt: this argument is written --prompt"),
        (["guidance_scale=3"], "--option guidance_scale: this argument is written --guidance"),
        (["output_type=pil"], "--option output_type: this argument is set by the command itself"),
        (["clean=True"], "--option clean=True: values are JSON, which writes it true"),
        (["image=@none.png"], "there is no file none.png"),
        (["image=@empty"], "empty holds no pictures"),
        (["image=@text.png"], "cannot read picture text.png"),
        (["x=@weights.pt"], "weights.pt may run code when it is read"),
        (["x=@objects.npy"], "cannot read array objects.npy"),
        (["x=@text.safetensors"], "cannot read tensors from text.safetensors"),
        (["x=@two.safetensors"], "two.safetensors holds no tensor of that name, but a, b"),
    ],
)
def test_what_cannot_be_read(texts: list[str], message: str):
    Path("empty").mkdir()
    for name in ("text.png", "text.safetensors", "weights.pt"):
        Path(name).write_text("text")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, "two.safetensors")
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        call_options(texts)


def test_what_a_pipeline_takes():
    taken_by(Pipeline(), ["num_frames"], ["image", "num_frames", "prompt"])
    taken_by(Open(), ["anything"], ["anything"])
    with pytest.raises(InputError, match="'nun_frames': did you mean 'num_frames'[?] known: image, num_frames$"):
        taken_by(Pipeline(), ["nun_frames"], ["image", "nun_frames"])
    with pytest.raises(InputError, match="'nun_frames': did you mean 'num_frames'[?] known: image, num_frames$"):
        taken_by(Lax(), ["nun_frames"], ["image", "nun_frames"])
    with pytest.raises(InputError, match="Pipeline takes no height and no width: leave --size out"):
        taken_by(Pipeline(), [], ["image", "height", "width"])
    with pytest.raises(InputError, match="Pipeline needs image: give --option image=…"):
        taken_by(Pipeline(), [], ["prompt"])
