"""Which pipeline classes diffusers has, and which tests of diffusers describe tiny parts for each."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
from diffusers.modular_pipelines import ModularPipeline

__all__ = ["Entry", "Tester", "catalogue", "required", "taken", "testers"]

#: Packages of diffusers that hold pipelines.
_PACKAGES = ("diffusers.pipelines", "diffusers.modular_pipelines")


@dataclass(frozen=True)
class Entry:
    """A pipeline class of diffusers.

    Attributes:
        name: Name of the class.
        module: Module that holds it.
        modular: Whether it is a modular pipeline.
    """

    name: str
    module: str
    modular: bool

    @property
    def family(self) -> str:
        """Folder of the class, without ``deprecated``: pipelines of one family share parts."""
        parts = self.module.split(".")[2:]
        return parts[1] if parts[0] == "deprecated" and len(parts) > 2 else parts[0]

    @property
    def pipeline_class(self) -> Any:
        """The class."""
        return getattr(importlib.import_module(self.module), self.name)


@dataclass(frozen=True)
class Tester:
    """A class of diffusers' tests that describes tiny parts of a pipeline, or its inputs.

    Attributes:
        module: Module of the tests.
        name: Name of the class of tests.
        pipeline: Name of the pipeline class.
        parts: Whether it describes parts; tests of modular pipelines describe inputs alone.
    """

    module: str
    name: str
    pipeline: str
    parts: bool

    def made(self) -> Any:
        """An object of the class that describes parts and inputs, without what a test runner does."""
        kind = getattr(importlib.import_module(self.module), self.name)
        return type(self.name, (kind,), {"__init__": lambda self: None})()


def _modules(package: str) -> Iterator[ModuleType]:
    """All modules of a package that can be imported here."""
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        try:
            yield importlib.import_module(found.name)
        except Exception:  # what it needs is not installed
            continue


def catalogue() -> list[Entry]:
    """All pipeline classes of the installed diffusers, deprecated and modular classes among them, by their names.

    A class is left out if it is the base of all others, or if what stands under its name needs a package that is
    missing and says no more than that.
    """
    found = {}
    for package in _PACKAGES:
        for module in _modules(package):
            for name, kind in vars(module).items():
                if inspect.isclass(kind) and kind.__module__ == module.__name__ and _is_pipeline(kind):
                    found[name] = Entry(name, module.__name__, issubclass(kind, ModularPipeline))
    return [found[name] for name in sorted(found)]


def _is_pipeline(kind: Any) -> bool:
    bases = (diffusers.DiffusionPipeline, ModularPipeline)
    return issubclass(kind, bases) and kind not in bases


def testers(tests: Path) -> dict[str, list[Tester]]:
    """Classes of diffusers' tests by the name of the pipeline that they describe.

    Args:
        tests: Folder that holds the folder ``tests`` of diffusers.
    """
    found: dict[str, list[Tester]] = {}
    for folder in ("pipelines", "modular_pipelines"):
        for file in sorted((tests / "tests" / folder).rglob("test_*.py")):
            name = ".".join(file.relative_to(tests).with_suffix("").parts)
            try:
                module = importlib.import_module(name)
            except Exception:  # what it needs is not installed
                continue
            for tester in _in(module):
                found.setdefault(tester.pipeline, []).append(tester)
    return found


def _in(module: ModuleType) -> Iterator[Tester]:
    for name, kind in vars(module).items():
        if not inspect.isclass(kind) or kind.__module__ != module.__name__ or not hasattr(kind, "get_dummy_inputs"):
            continue
        pipeline = _public(getattr(kind, "pipeline_class", None))
        if pipeline is not None:
            yield Tester(module.__name__, name, pipeline.__name__, hasattr(kind, "get_dummy_components"))


def _public(kind: Any) -> Any:
    """The class of diffusers that a class of tests stands for; some wrap it. None: it stands for none."""
    if not inspect.isclass(kind):
        return None
    return next((base for base in kind.__mro__ if base.__module__.startswith("diffusers.")), None)


def _arguments(call: Any) -> list[inspect.Parameter]:
    """The arguments of a function or of a constructor that have names."""
    found = inspect.signature(call).parameters.values()
    return [one for one in found if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and one.name != "self"]


def taken(call: Any) -> set[str]:
    """Names of the arguments of a function or of a constructor."""
    return {one.name for one in _arguments(call)}


def required(call: Any) -> set[str]:
    """Names of the arguments without a default."""
    return {one.name for one in _arguments(call) if one.default is one.empty}
