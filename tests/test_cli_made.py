"""What a pipeline's output holds, and the files of videos and sound."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from longstride.cli import made as module
from longstride.cli.made import frame_rate, made_by, sample_rate, write_sound, write_video
from longstride.errors import InputError

PICTURE = np.linspace(0, 1, 4 * 6 * 3, dtype=np.float32).reshape(4, 6, 3)
EXPECTED = torch.from_numpy(2 * PICTURE - 1).permute(2, 0, 1)


class Output(dict):  # type: ignore[type-arg]
    """As diffusers' outputs: a mapping with fields."""


def as_picture(values: Any) -> Image.Image:
    return Image.fromarray((255 * values).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("images", "places"),
    [
        (np.stack([PICTURE, PICTURE]), 6),
        (torch.from_numpy(PICTURE).permute(2, 0, 1)[None].repeat(2, 1, 1, 1), 6),
        ([as_picture(PICTURE), as_picture(PICTURE)], 2),
        (as_picture(PICTURE), 2),
    ],
)
def test_pictures_in_every_form(images: Any, places: int):
    found = made_by(None, Output(images=images, nsfw_content_detected=None))
    assert len(found) == (1 if hasattr(images, "convert") else 2)
    assert all((one.video, one.sound) == (None, None) for one in found)
    torch.testing.assert_close(found[-1].picture, EXPECTED, atol=10.0**-places * 0.5, rtol=0)
    torch.testing.assert_close(found[-1].still, found[-1].picture, rtol=0, atol=0)


@pytest.mark.parametrize("field", ["frames", "video", "images"])
@pytest.mark.parametrize("form", ["array", "tensor", "pictures"])
def test_videos_in_every_form(field: str, form: str):
    """A fifth axis, or lists of lists, make a video of what a field calls pictures."""
    frames = np.stack([PICTURE, 1 - PICTURE, PICTURE])
    values: Any = frames[None]
    if form == "tensor":
        values = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
    if form == "pictures":
        values = [[as_picture(frame) for frame in frames]]
    (found,) = made_by(None, Output({field: values}))
    assert found.picture is None
    expected = torch.stack([EXPECTED, -EXPECTED, EXPECTED])
    torch.testing.assert_close(found.video, expected, atol=1e-6 if form != "pictures" else 5e-3, rtol=0)
    torch.testing.assert_close(found.still, found.video[1], rtol=0, atol=0)


def test_sound_beside_a_video_and_alone():
    wave = torch.sin(torch.arange(100) / 9)
    both = torch.stack([wave, -wave])
    (found,) = made_by(None, Output(frames=PICTURE[None, None], audio=both[None]))
    assert found.video.shape == (1, 3, 4, 6)
    torch.testing.assert_close(found.sound, both.T, rtol=0, atol=0)
    for audios in (wave[None], wave[None, None], wave[None].numpy()):
        (found,) = made_by(None, Output(audios=audios))
        torch.testing.assert_close(found.sound, wave[:, None], rtol=0, atol=0)
        torch.testing.assert_close(found.values, wave[:, None], rtol=0, atol=0)


def test_outputs_that_cannot_be_written():
    class Prior: ...

    with pytest.raises(InputError, match="Prior makes image_embeds and negative: only pictures, videos and sound"):
        made_by(Prior(), Output(image_embeds=torch.zeros(1, 3), negative=None))


def test_the_rates_of_a_pipeline():
    class Plain:
        def __call__(self, prompt: str) -> None: ...

    class Told:
        components = {"vae": types.SimpleNamespace(config=types.SimpleNamespace(sampling_rate=44100))}  # noqa: RUF012

        def __call__(self, prompt: str, fps: float = 24.0) -> None: ...

    class Vocoder(Told):
        sample_rate = 1
        components = {  # noqa: RUF012
            **Told.components,
            "vocoder": types.SimpleNamespace(config=types.SimpleNamespace(output_sampling_rate=24000)),
        }

    assert (frame_rate(Plain(), {}), frame_rate(Told(), {}), frame_rate(Told(), {"fps": 8})) == (16, 24, 8)
    assert (sample_rate(Plain()), sample_rate(Told()), sample_rate(Vocoder())) == (16000, 44100, 24000)


def test_sound_is_written(tmp_path: Path):
    write_sound(torch.tensor([[0.0, 1.0], [-1.0, 0.5], [2.0, float("nan")]]), tmp_path / "x.wav", 8000)
    rate, values = wavfile.read(tmp_path / "x.wav")
    assert rate == 8000
    assert values.tolist() == [[0, 32767], [-32767, 16384], [32767, 0]]


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Hide packages, and the system's ffmpeg."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else find(name))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)


def test_without_a_coder_a_video_is_a_folder_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "av", "imageio_ffmpeg")
    frames = torch.stack([EXPECTED, -EXPECTED])
    assert write_video(frames, tmp_path / "x.mp4", 16.0) == tmp_path / "x"
    assert sorted(file.name for file in (tmp_path / "x").iterdir()) == ["0000.png", "0001.png"]
    with Image.open(tmp_path / "x" / "0001.png") as frame:
        np.testing.assert_allclose(np.asarray(frame) / 255, 1 - PICTURE, atol=2.1e-3)


def test_ffmpeg_is_given_all_frames_at_an_even_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """H.264 in 4:2:0 takes even sizes only; the last row and column are repeated."""
    without(monkeypatch, "av")
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/ffmpeg")
    calls: list[tuple[list[str], bytes]] = []

    def run(command: list[str], input: bytes, **_: Any) -> Any:
        calls.append((command, input))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", run)
    frames = EXPECTED[None, :, :3, :5].repeat(7, 1, 1, 1)
    assert write_video(frames, tmp_path / "x.mp4", 12.5) == tmp_path / "x.mp4"
    ((command, raw),) = calls
    assert command[0] == "/bin/ffmpeg"
    assert [command[command.index(name) + 1] for name in ("-s", "-r")] == ["6x4", "12.5"]
    found = np.frombuffer(raw, np.uint8).reshape(7, 4, 6, 3)
    assert (found[:, 3] == found[:, 2]).all()
    assert (found[:, :, 5] == found[:, :, 4]).all()
    monkeypatch.setattr(
        module.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, b"", b"no codec\nmore")
    )
    with pytest.raises(InputError, match=r"ffmpeg cannot write .*x.mp4: no codec$"):
        write_video(frames, tmp_path / "x.mp4", 12.5)


@pytest.mark.parametrize("package", ["av", "imageio_ffmpeg"])
def test_a_real_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str):
    """Whichever coder is installed writes a file that its own reader reads."""
    pytest.importorskip(package)
    if package == "imageio_ffmpeg":
        without(monkeypatch, "av")
    frames = torch.linspace(-1, 1, 9)[:, None, None, None].expand(9, 3, 33, 48)
    path = write_video(frames, tmp_path / "x.mp4", 24.0)
    assert path.suffix == ".mp4"
    if package == "av":
        with sys.modules["av"].open(str(path)) as container:
            (stream,) = container.streams.video
            grey = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(stream)]
            assert (stream.width, stream.height, float(stream.average_rate)) == (48, 34, 24.0)
        np.testing.assert_allclose(grey, np.linspace(0, 255, 9), atol=3)
    else:
        frames_and_seconds = sys.modules["imageio_ffmpeg"].count_frames_and_secs(str(path))
        assert frames_and_seconds == (9, pytest.approx(9 / 24, abs=0.02))
