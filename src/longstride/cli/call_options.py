"""``--option key=value``: further arguments of a pipeline's call, written on the command line.

A value is JSON if it parses, otherwise text. ``@path`` is a file: a picture, a folder of pictures, tensors in
``.safetensors``, or an array in ``.npy``. Nothing is unpickled. A path with the suffix of a picture needs no ``@`` if
it exists, and several of them come with commas.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from longstride.errors import InputError, unknown

__all__ = ["SET_OTHERWISE", "WRITTEN", "CallOptions", "call_options", "taken_by"]

#: Suffixes of pictures.
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
#: Arguments of a call by the option of the commands that they come from.
WRITTEN = {
    "prompt": "--prompt (sample) or --prompts",
    "negative_prompt": "--negative",
    "guidance_scale": "--guidance",
    "num_inference_steps": "--nfe",
    "generator": "--seed",
    "latents": "--seed",
    "height": "--size",
    "width": "--size",
}
#: Arguments that the commands set, so that ``--option`` does not. Height and width may be given singly.
SET_OTHERWISE = ("output_type", "return_dict", *(name for name in WRITTEN if name not in ("height", "width")))
#: Kinds of arguments that have a name.
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
#: What Python writes otherwise than JSON. As text these words would be true.
_PYTHON = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True)
class CallOptions:
    """Further arguments of a pipeline's call.

    Attributes:
        shared: Arguments that all samples share.
        per_sample: Arguments with one entry per sample, gone through in turn: lists, or tensors along their first axis.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    per_sample: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of all arguments."""
        return [*self.shared, *self.per_sample]

    def of(self, number: int) -> dict[str, Any]:
        """Arguments of a call for one sample.

        Args:
            number: Number of the sample, from 0.
        """
        own: dict[str, Any] = {}
        for name, values in self.per_sample.items():
            k = number % len(values)
            batch = isinstance(values, torch.Tensor) or name == "class_labels"
            own[name] = values[k : k + 1] if batch else values[k]
        return {**self.shared, **own}


def call_options(texts: Sequence[str] | None) -> CallOptions:
    """The arguments that were written as ``key=value``.

    Raises:
        InputError: not written like that, given twice, an argument that another option is for, or a file that cannot be
            read.
    """
    shared: dict[str, Any] = {}
    per_sample: dict[str, Sequence[Any]] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InputError(f"expected --option key=value, such as --option max_sequence_length=256, got {text!r}")
        if name in shared or name in per_sample:
            raise InputError(f"--option {name} is given twice; several pictures come with commas, or as a folder")
        if name in SET_OTHERWISE:
            own = f"is written {WRITTEN[name]}" if name in WRITTEN else "is set by the command itself"
            raise InputError(f"--option {name}: this argument {own}")
        found, many = _read(name, value)
        if many:
            per_sample[name] = found
        else:
            shared[name] = found
    return CallOptions(shared, per_sample)


def taken_by(pipeline: Any, names: Sequence[str], given: Collection[str]) -> None:
    """Make sure that a pipeline's call takes what the user wrote, and lacks nothing.

    Args:
        pipeline: The pipeline.
        names: Arguments that ``--option`` gave.
        given: All arguments that the call will have.

    Raises:
        InputError: an unknown argument, told with the nearest names that the pipeline takes; or a missing argument.
    """
    kind, parameters = type(pipeline).__name__, dict(signature(type(pipeline).__call__).parameters)
    parameters.pop("self", None)
    # Many calls take **kwargs beside their arguments, and pass over what they do not know there.
    named = {name: one for name, one in parameters.items() if one.kind in _NAMED}
    takes = [name for name in named if name not in SET_OTHERWISE]
    if named:
        for name in names:
            if name not in takes:
                raise unknown(f"--option of {kind}", name, takes)
        if lost := sorted(set(given) - set(named)):
            raise InputError(f"{kind} takes no {' and no '.join(lost)}: leave {_written(lost)} out")
    needs = [name for name, one in named.items() if one.default is Parameter.empty]
    if lacking := [name for name in needs if name not in given]:
        raise InputError(f"{kind} needs {' and '.join(lacking)}: give {_written(lacking)}")


def _written(names: Sequence[str]) -> str:
    """How arguments of a call are given on the command line."""
    ways = {name: WRITTEN.get(name) or f"--option {name}=…" for name in names}
    return " and ".join(dict.fromkeys(ways.values()))


def _read(name: str, text: str) -> tuple[Any, bool]:
    """A value, and whether it holds one entry per sample."""
    if text.startswith("@"):
        return _of_file(name, Path(text[1:]).expanduser())
    parts = [Path(part.strip()).expanduser() for part in text.split(",")]
    if all(part.suffix.lower() in PICTURES and part.is_file() for part in parts):
        return [_picture(part) for part in parts], True
    if text in _PYTHON:
        raise InputError(f"--option {name}={text}: values are JSON, which writes it {_PYTHON[text]}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return _by_sample(name, value)


def _by_sample(name: str, value: Any) -> tuple[Any, bool]:
    """A plain value. Prompts and classes have one entry per sample, all other arguments are shared."""
    if name == "class_labels" or "prompt" in name:
        if isinstance(value, list) and value and not isinstance(value[0], list):
            return value, True
        if isinstance(value, str) or (isinstance(value, int) and name == "class_labels"):
            return [value], True
    return value, False


def _of_file(name: str, path: Path) -> tuple[Any, bool]:
    """What a file or a folder holds.

    Raises:
        InputError: it is missing, empty, or of another kind.
    """
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES)
        if not files:
            raise InputError(f"--option {name}: {path} holds no pictures ({', '.join(PICTURES)})")
        return [_picture(file) for file in files], True
    parts = [Path(part.strip().removeprefix("@")).expanduser() for part in str(path).split(",")]
    if len(parts) > 1 and not path.exists():
        return [_picture(part) for part in parts], True
    if not path.is_file():
        raise InputError(f"--option {name}: there is no file {path}")
    if path.suffix == ".npy":
        return _entries(_array(path))
    if path.suffix == ".safetensors":
        return _entries(_tensor(name, path))
    if path.suffix.lower() in (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".npz"):
        raise InputError(f"--option {name}: {path} may run code when it is read: save it as .safetensors or .npy")
    return [_picture(path)], True


def _picture(path: Path) -> Image.Image:
    """A picture in RGB, or in grey as a mask is, upright."""
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            return upright.convert("L" if upright.mode in ("1", "L", "I;16") else "RGB")
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise InputError(f"cannot read picture {path}: {getattr(error, 'strerror', None) or error}") from None


def _array(path: Path) -> torch.Tensor:
    try:
        found: torch.Tensor = torch.as_tensor(np.load(path, allow_pickle=False))
        return found
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read array {path}: {error}") from None


def _tensor(name: str, path: Path) -> torch.Tensor:
    """The tensor called ``name`` in a file, or its only tensor."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read tensors from {path}: {error}") from None
    if name in found or len(found) == 1:
        tensor: torch.Tensor = found.get(name, next(iter(found.values())))
        return tensor
    raise InputError(f"--option {name}: {path} holds no tensor of that name, but {', '.join(sorted(found))}")


def _entries(tensor: torch.Tensor) -> tuple[Any, bool]:
    """A tensor with one entry per sample along its first axis, or the plain numbers of one with a single axis."""
    if tensor.ndim < 2:
        return tensor.tolist(), False
    return tensor, True
