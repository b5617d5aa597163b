"""What a pipeline made, and how it is written: pictures, videos and sound.

Which of them an output holds is read from its fields and their shapes, so that a new pipeline needs no entry here.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.errors import InputError
from longstride.evaluation.plots import picture_grid, to_pixels

__all__ = ["Made", "frame_rate", "made_by", "sample_rate", "write_sound", "write_video"]

#: Fields of an output by what they hold; several names of one kind are tried in turn.
_PICTURES = ("images", "image", "prediction", "rgb")
_VIDEOS = ("frames", "video", "videos")
_SOUNDS = ("audios", "audio", "sound")
#: Frames and samples per second, if a pipeline does not say its own.
_FRAME_RATE, _SAMPLE_RATE = 16.0, 16000
#: Names under which pipelines and their parts keep the samples per second of their sound.
_RATES = ("output_sampling_rate", "sampling_rate", "sample_rate", "audio_sampling_rate")


@dataclass(frozen=True)
class Made:
    """What one call of a pipeline made for one sample.

    Attributes:
        picture: Shape ``(C, H, W)`` in [-1, 1], C = 1 or 3, or None.
        video: Frames, shape ``(F, C, H, W)`` in [-1, 1], or None.
        sound: Shape ``(T, channels)`` in [-1, 1], or None.
    """

    picture: Tensor | None = None
    video: Tensor | None = None
    sound: Tensor | None = None

    @property
    def still(self) -> Tensor | None:
        """The picture, or the middle frame of the video."""
        return self.picture if self.video is None else self.video[len(self.video) // 2]

    @property
    def values(self) -> Tensor:
        """The picture, the video or the sound as numbers to compare."""
        found = next(one for one in (self.picture, self.video, self.sound) if one is not None)
        return found.float()


def made_by(pipeline: Any, output: Any) -> list[Made]:
    """What a call of a pipeline returned, sample by sample.

    Args:
        pipeline: The pipeline, for the message.
        output: What the call returned.

    Raises:
        InputError: neither pictures nor videos nor sound.
    """
    fields = output if isinstance(output, Mapping) else dict(vars(output))
    pictures, videos, sounds = (
        next((fields[name] for name in names if fields.get(name) is not None), None)
        for names in (_PICTURES, _VIDEOS, _SOUNDS)
    )
    parts: list[dict[str, Tensor]] = []
    for name, values, read in (
        ("picture", pictures, _picture),
        ("video", videos, _video),
        ("sound", sounds, _sound),
    ):
        for n, one in enumerate(() if values is None else _samples(values)):
            parts += [{}] * (n + 1 - len(parts))
            parts[n] = {**parts[n], ("video" if name == "picture" and _ndim(one) == 4 else name): read(one)}
    if not parts:
        raise InputError(
            f"{type(pipeline).__name__} makes {' and '.join(fields) or 'nothing'}: only pictures, videos and sound can "
            "be written"
        )
    return [Made(**part) for part in parts]


def _samples(values: Any) -> Sequence[Any]:
    """One entry per sample. A single picture, or sound without an axis of samples, is one sample."""
    if hasattr(values, "convert"):
        return [values]
    return [values] if _ndim(values) == 1 else list(values)


def _array(value: Any) -> NDArray[np.float32]:
    """Numbers of a picture, a video or sound; whole numbers from 0 to 255 become 0 to 1."""
    if isinstance(value, Tensor):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, (list, tuple)):
        return np.stack([_array(one) for one in value])
    found = np.asarray(value)
    numbers: NDArray[np.float32] = found.astype(np.float32)
    return numbers / np.float32(255) if found.dtype == np.uint8 else numbers


def _ndim(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return 1 + _ndim(value[0])
    return value.ndim if isinstance(value, (Tensor, np.ndarray)) else _array(value).ndim


def _channels_first(found: NDArray[np.float32]) -> Tensor:
    """Pictures or frames ``(*, C, H, W)`` in [-1, 1] of values in [0, 1] with the channels last or third to last."""
    tensor = torch.from_numpy(found)
    if tensor.shape[-1] in (1, 3, 4):
        tensor = tensor.movedim(-1, -3)
    elif tensor.shape[-3] not in (1, 3, 4):
        raise InputError(f"expected pictures with 1, 3 or 4 channels, got shape {tuple(tensor.shape)}")
    return 2 * tensor[..., :3, :, :] - 1


def _picture(value: Any) -> Tensor:
    found = _array(value)
    return _channels_first(found[..., None] if found.ndim == 2 else found)


def _video(value: Any) -> Tensor:
    found = _array(value)
    return _channels_first(found if found.ndim == 4 else found[None])


def _sound(value: Any) -> Tensor:
    """Samples over time first, then channels, of an array with either order: there are more samples than channels."""
    found = torch.from_numpy(_array(value)).squeeze()
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2:
        raise InputError(f"expected sound of shape (T,) or (channels, T), got {tuple(found.shape)}")
    return found.T if len(found) < found.shape[1] else found


def frame_rate(pipeline: Any, options: Mapping[str, Any]) -> float:
    """Frames per second: as the call is told, or as the pipeline's call does by itself, or 16."""
    from longstride.integrations.anatomy import takes

    defaults = takes(pipeline)
    for name in ("frame_rate", "fps"):
        rate = options.get(name, defaults.get(name))
        if isinstance(rate, (int, float)) and rate > 0:
            return float(rate)
    return _FRAME_RATE


def sample_rate(pipeline: Any) -> int:
    """Samples of sound per second, as the vocoder, the decoder of sound or the pipeline says, or 16,000."""
    parts = dict(getattr(pipeline, "components", {}))
    order = [parts.get(name) for name in ("vocoder", "audio_vae", "vae", "unet", "transformer")]
    for place in [*order, pipeline]:
        for holder in (getattr(place, "config", None), place):
            for name in _RATES:
                rate = getattr(holder, name, None) if holder is not None else None
                if isinstance(rate, (int, float)) and rate > 0:
                    return int(rate)
    return _SAMPLE_RATE


def write_sound(sound: Tensor, path: Path, rate: int) -> None:
    """Write sound ``(T, channels)`` in [-1, 1] as a ``.wav`` file of 16-bit numbers."""
    from scipy.io import wavfile

    whole = (sound.float().nan_to_num().clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    try:
        wavfile.write(path, rate, whole)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def write_video(frames: Tensor, path: Path, rate: float) -> Path:
    """Write a video as ``.mp4`` if PyAV or ffmpeg is there, otherwise as a folder of frames.

    Args:
        frames: Shape ``(F, 1 or 3, H, W)`` in [-1, 1].
        path: The file; the folder has its name without ``.mp4``.
        rate: Frames per second.

    Returns:
        The file or the folder.

    Raises:
        InputError: the file or the folder cannot be written.
    """
    pixels = to_pixels(frames)
    pixels = np.pad(pixels, [(0, 0), *((0, size % 2) for size in pixels.shape[1:3]), (0, 0)], mode="edge")
    if importlib.util.find_spec("av") is not None:
        _by_av(pixels, path, rate)
        return path
    if (program := _ffmpeg()) is not None:
        _by_ffmpeg(program, pixels, path, rate)
        return path
    folder = path.with_suffix("")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror or error}") from None
    for n, frame in enumerate(frames):
        picture_grid(frame[None], folder / f"{n:04d}.png", columns=1)
    return folder


def _ffmpeg() -> str | None:
    """ffmpeg's program: the system's, or that of the package imageio-ffmpeg."""
    if (found := shutil.which("ffmpeg")) is not None:
        return found
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())


def _by_av(pixels: NDArray[np.uint8], path: Path, rate: float) -> None:
    av = importlib.import_module("av")
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("h264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _by_ffmpeg(program: str, pixels: NDArray[np.uint8], path: Path, rate: float) -> None:
    _, height, width, _ = pixels.shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{rate:g}", "-i", "-"]
    command = [program, "-y", "-loglevel", "error", *raw, "-pix_fmt", "yuv420p", str(path)]
    done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise InputError(f"ffmpeg cannot write {path}: {words}")
