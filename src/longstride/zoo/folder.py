"""A diffusers folder: the parts that it names, and how each is loaded, with one clear error for every fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from longstride.errors import InputError
from longstride.zoo.edm_unet import EDM_UNETS, load_edm_unet

__all__ = ["Folder"]

#: Weights that are not safetensors: reading them can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
#: The weights' file, by library.
_WEIGHTS = {"diffusers": "diffusion_pytorch_model", "longstride": "diffusion_pytorch_model", "transformers": "model"}


class Folder:
    """A folder with a ``model_index.json``, as diffusers writes it.

    Attributes:
        path: Path of the folder.
        index: Content of ``model_index.json``.

    Raises:
        InputError: the folder holds no readable ``model_index.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path, file = path, path / "model_index.json"
        if not file.is_file():
            raise InputError(f"{path} is no diffusers model: model_index.json is missing{self._instead()}")
        try:
            index = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {file}: {error}") from None
        self.index: dict[str, Any] = index if isinstance(index, dict) else {}

    def _instead(self) -> str:
        """What the folder holds in place of a pipeline."""
        if not any(self.path.iterdir()):
            return " (the folder is empty)"
        if (self.path / "config.json").is_file():
            return "; it holds one part alone: put it into a folder unet/ beside a folder scheduler/"
        return ""

    def kind(self, part: str) -> str | None:
        """The class that the index names for a part, as in ``"unet": ["diffusers", "UNet2DModel"]``, or None."""
        entry = self.index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None

    def library(self, part: str) -> str:
        """The library of a part's class: transformers, longstride, or else diffusers."""
        entry = self.index.get(part)
        known = isinstance(entry, list) and entry and entry[0] in ("transformers", "longstride")
        return str(entry[0]) if known and isinstance(entry, list) else "diffusers"

    def where(self, part: str) -> Path:
        """The folder of a part; the first DDPM models hold all parts in the folder itself."""
        return self.path / part if (self.path / part).is_dir() else self.path

    def part_class(self, part: str) -> Any:
        """The class of a part.

        Raises:
            InputError: the library is not installed, or has no such class.
        """
        library, kind = self.library(part), str(self.kind(part))
        if library == "longstride":
            found, version = EDM_UNETS.get(kind), library
        else:
            try:
                module = import_module(library)
            except ImportError:
                raise InputError(f"the {part} of {self.path} needs {library}: pip install 'longstride[text]'") from None
            found, version = getattr(module, kind, None), f"{library} {module.__version__}"
        if found is None:
            raise InputError(f"{version} has no class {kind} (for the {part} in {self.where(part)})")
        return found

    def config(self, part: str) -> dict[str, Any]:
        """The part's ``config.json``, without the defaults that its class fills in.

        Raises:
            InputError: the file is missing, or cannot be read.
        """
        file = self.where(part) / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot load the {part} of {self.path}: {file}: {error}") from None
        return config if isinstance(config, dict) else {}

    def load(self, part: str, *, weights: bool = True, **options: Any) -> Any:
        """A part, loaded by its class from local files alone.

        Args:
            part: Name of the part in the index.
            weights: Whether the part has weights, which are read from safetensors only.
            **options: Options for ``from_pretrained`` of its class.

        Raises:
            InputError: the part cannot be loaded.
        """
        kind, where = self.part_class(part), self.where(part)
        if weights:
            self._check_weights(part)
            options["use_safetensors"] = True
        try:
            if self.library(part) == "longstride":
                return load_edm_unet(where, str(self.kind(part))).to(options["torch_dtype"])
            with _no_progress_bars(self.library(part)):
                return kind.from_pretrained(str(where), local_files_only=True, **options)
        except Exception as error:  # a damaged file can raise nearly anything
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"cannot load the {part} of {self.path}: {reason}") from None

    def _check_weights(self, part: str) -> None:
        where, name = self.where(part), _WEIGHTS[self.library(part)]
        if any((where / f"{name}.safetensors{end}").is_file() for end in ("", ".index.json")):
            return
        there = sorted(file.name for file in where.iterdir() if file.is_file())
        problem = f"cannot load the {part} of {self.path}: {name}.safetensors is missing in {where}"
        if pickles := [file for file in there if file.endswith(_PICKLES)]:
            library, kind = self.library(part), self.kind(part)
            raise InputError(
                f"{problem}; {pickles[0]} is not read, because a pickle can run code. If you trust it, convert it: "
                f'python -c "from {library} import {kind} as M; '
                f"M.from_pretrained('{where}', use_safetensors=False).save_pretrained('{where}')\""
            )
        if others := [file for file in there if file.endswith(".safetensors")]:
            raise InputError(f"{problem}; there is {others[0]}: rename it if these are the weights")
        raise InputError(problem)


@contextmanager
def _no_progress_bars(library: str) -> Iterator[None]:
    """Keep transformers from drawing one bar per part on standard error."""
    if library != "transformers":
        yield
        return
    logging = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
