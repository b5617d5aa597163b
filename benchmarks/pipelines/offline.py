"""What the tests of diffusers ask the hub for is made on the spot; a name that is a folder is loaded as always."""

from __future__ import annotations

import importlib
import logging
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import huggingface_hub.constants
import torch
import transformers
from torch.nn import functional

from benchmarks.pipelines.small_sizes import shrink_targets
from benchmarks.pipelines.stand_ins import ENCODERS, EXTRACTORS, PROCESSORS, Processor, t5_config, tokenizer

__all__ = ["go_offline", "lend_cleaner"]

#: Packages that the tests of diffusers import for tests that are not run here.
_UNUSED = ("parameterized", "requests_mock", "timm")
#: Modules of diffusers that resize a mask with torchvision.
_RESIZING = ("diffusers.models.transformers.transformer_cosmos", "diffusers.models.controlnets.controlnet_cosmos")

#: Makes a part in place of the hub's, from the class that is asked for it, its name and further settings.
_Make = Callable[..., Any]


class _Nothing:
    """A decorator that changes nothing, and whose parts are like it."""

    def __call__(self, *given: Any, **settings: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) and not settings else self

    def __getattr__(self, name: str) -> Any:
        return self


class _Unused(ModuleType):
    """A package that nobody uses."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


def go_offline(tests: Path) -> None:
    """Make the tests of diffusers importable as ``tests``, and give stand-ins in place of what the hub has.

    The process is changed for good: call it in a process that does nothing else.

    Args:
        tests: Folder that holds the folder ``tests`` of diffusers.
    """
    sys.path.insert(0, str(tests))
    for name in _UNUSED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = _Unused(name)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    library: Any
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # a question to the hub would wait for minutes
    _serve()
    _resize_without_torchvision()
    shrink_targets()


def lend_cleaner(pipeline: Any) -> None:
    """Give the module of a pipeline class a ``ftfy`` that changes nothing, if it asks for the package and has none."""
    for kind in pipeline.__mro__:
        module = sys.modules[kind.__module__]
        if module.__name__.startswith("diffusers.") and not hasattr(module, "ftfy"):
            vars(module)["ftfy"] = types.SimpleNamespace(fix_text=lambda text: text)


def _serve() -> None:
    """Let ``from_pretrained`` of tokenizers, processors, configurations and encoders give stand-ins."""

    def named(kind: Any, name: str, **settings: Any) -> Any:
        return tokenizer(name, str(settings.get("subfolder") or ""))

    def encoder(kind: Any, name: str, **settings: Any) -> Any:
        if kind.__name__ not in ENCODERS:
            raise OSError(f"no stand-in for {kind.__name__} {name}")
        return ENCODERS[kind.__name__]()

    def config(kind: Any, name: str, **settings: Any) -> Any:
        if "t5" not in name.lower():
            raise OSError(f"no stand-in for the configuration {name}")
        return t5_config()

    _serve_from(transformers.AutoTokenizer, named)
    _serve_from(transformers.PreTrainedTokenizerBase, named)
    _serve_from(transformers.PreTrainedModel, encoder)
    _serve_from(importlib.import_module("diffusers.pipelines.kolors").ChatGLMTokenizer, named)
    _serve_from(transformers.AutoConfig, config)
    for name in PROCESSORS:
        if (kind := getattr(transformers, name, None)) is not None:
            _serve_from(kind, lambda kind, name, **settings: Processor())
    for name in EXTRACTORS:
        _serve_from(getattr(transformers, name), lambda kind, name, **settings: kind(**settings))


def _serve_from(kind: Any, make: _Make) -> None:
    loads = kind.from_pretrained.__func__

    def from_pretrained(asked: Any, name: Any = None, *args: Any, **settings: Any) -> Any:
        if isinstance(name, str) and not Path(name).exists():
            return make(asked, name, **settings)
        return loads(asked, name, *args, **settings)

    kind.from_pretrained = classmethod(from_pretrained)


def _resize_without_torchvision() -> None:
    """Give Cosmos's networks the one function of torchvision that they use."""

    def resize(x: torch.Tensor, size: Any, interpolation: Any = None) -> torch.Tensor:
        planes = x if x.ndim == 4 else x[None]
        return functional.interpolate(planes, size=tuple(size), mode="nearest").reshape(*x.shape[:-2], *size)

    mode = types.SimpleNamespace(NEAREST=0)
    transforms = types.SimpleNamespace(functional=types.SimpleNamespace(resize=resize), InterpolationMode=mode)
    for name in _RESIZING:
        module: Any = importlib.import_module(name)
        if not hasattr(module, "transforms"):
            module.transforms = transforms
