"""Pipelines of tiny random parts, as diffusers' own tests describe these."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from benchmarks.pipelines.catalogue import Entry, Tester, required, taken
from benchmarks.pipelines.offline import lend_cleaner
from benchmarks.pipelines.records import first_line
from benchmarks.pipelines.small_sizes import shrink, small_call
from benchmarks.pipelines.stand_ins import IMAGE_TOKEN

__all__ = ["Built", "NotBuilt", "build", "fresh_inputs"]

#: Pipelines whose parts serve the classes that diffusers has no tests for any more.
_LENDERS = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLControlNetUnionPipeline",
    "AnimateDiffPipeline",
    "DDIMPipeline",
    "WanPipeline",
)
#: Fewest rows of a text encoder's embedding: the stand-ins of tokenizers count up to here.
_TOKENS = 400
_SIZE = 32
#: Arguments of a call that are a picture.
_PICTURES = frozenset({"image", "mask_image", "control_image"})


class NotBuilt(Exception):
    """No offline parts can be built for a class; the message says why."""


class _Lacking(NotBuilt):
    """Another pipeline's tests lack parts.

    Args:
        names: Names of the parts.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(
            f"no tests of diffusers describe its parts, and no other pipeline lends its {', '.join(sorted(names))}"
        )
        self.names = names


@dataclass(frozen=True)
class Built:
    """A pipeline of tiny random parts.

    Attributes:
        pipeline: The pipeline.
        tester: What describes the inputs of a call.
        lent: Whether the parts are those of another pipeline's tests.
    """

    pipeline: Any
    tester: Tester
    lent: bool = False


def build(entry: Entry, known: Mapping[str, Sequence[Tester]]) -> Built:
    """A pipeline of a class.

    Args:
        entry: The class.
        known: Classes of tests by the name of the pipeline, see :func:`~benchmarks.pipelines.catalogue.testers`.

    Raises:
        NotBuilt: nothing describes parts that can be made here.
    """
    lend_cleaner(entry.pipeline_class)
    failures: list[Exception] = []
    for tester in _candidates(entry, known):
        try:
            return _built(entry, tester, known)
        except Exception as error:
            failures.append(error)
    raise _reason(failures)


def _reason(failures: Sequence[Exception]) -> NotBuilt:
    """Why nothing could be built: the tests that lack least, or else the first failure."""
    if not failures:
        return NotBuilt("no tests of diffusers describe its parts, and no pipeline of its family is built")
    lacking = [error for error in failures if isinstance(error, _Lacking)]
    if lacking:
        return min(lacking, key=lambda error: len(error.names))
    first = failures[0]
    return first if isinstance(first, NotBuilt) else NotBuilt(f"{type(first).__name__}: {first_line(first)}")


def _candidates(entry: Entry, known: Mapping[str, Sequence[Tester]]) -> Iterator[Tester]:
    """Classes of tests that may serve a class: its own, then its family's, then the lenders'."""
    own = known.get(entry.name, ())
    if entry.modular:
        yield from own[:1]
        if not own:
            yield from _of_family(entry, known)
        return
    yield from (tester for tester in own if tester.parts)
    if not own:
        yield from _of_family(entry, known)


def _of_family(entry: Entry, known: Mapping[str, Sequence[Tester]]) -> Iterator[Tester]:
    """The first class of tests with parts of every pipeline of a class's family, and of the lenders."""
    every = {name: next((tester for tester in some if tester.parts), None) for name, some in known.items()}
    family = [one for one in every.values() if one is not None and one.module.split(".")[2] == entry.family]
    yield from family
    for lender in () if entry.modular else map(every.get, _LENDERS):
        if lender is not None and lender not in family:
            yield lender


def _built(entry: Entry, tester: Tester, known: Mapping[str, Sequence[Tester]]) -> Built:
    if entry.modular:
        return _modular(entry, tester, known)
    parts = tester.made().get_dummy_components()
    kind = entry.pipeline_class
    lent = tester.pipeline != entry.name
    if lent and (missing := _missing(kind, parts)):
        raise _Lacking(missing)
    pipeline = kind(**{name: part for name, part in parts.items() if not lent or name in taken(kind.__init__)})
    return Built(_ready(pipeline), tester, lent)


def _missing(kind: Any, parts: Mapping[str, Any]) -> set[str]:
    """Parts that a pipeline class needs and that are missing, or of another class than it names.

    Schedulers, tokenizers, text encoders, and parts that are None serve every pipeline.
    """
    types = kind._get_signature_types()

    def serves(name: str) -> bool:
        if parts[name] is None or any(kind in name for kind in ("scheduler", "tokenizer", "text_encoder")):
            return True
        named = tuple(one for one in types.get(name, ()) if inspect.isclass(one) and one is not inspect.Parameter.empty)
        return not named or isinstance(parts[name], named)

    return {name for name in required(kind.__init__) if name not in parts or not serves(name)}


def _modular(entry: Entry, tester: Tester, known: Mapping[str, Sequence[Tester]]) -> Built:
    """A modular pipeline of the parts of the ordinary pipelines of its family."""
    kind = entry.pipeline_class
    blocks = getattr(tester.made(), "pipeline_blocks_class", None)
    if blocks is None:
        blocks = getattr(diffusers.modular_pipelines, kind.default_blocks_name)
    pipeline = kind(blocks=blocks())
    wanted = {spec.name for spec in pipeline._component_specs.values() if spec.default_creation_method != "from_config"}
    failures: list[Exception] = []
    for lender in _of_family(entry, known):
        parts = lender.made().get_dummy_components()
        found = {name: part for name, part in parts.items() if name in wanted and part is not None}
        if missing := {name for name in wanted if name not in found and _needed(name)}:
            failures.append(_Lacking(missing))
            continue
        pipeline.update_components(**found)
        return Built(_ready(pipeline), tester, lender is not tester)
    raise _reason(failures) if failures else NotBuilt("its tests take its parts from the hub")


def _needed(name: str) -> bool:
    """Whether a modular pipeline runs only with a part."""
    return not name.startswith(("controlnet", "image_encoder", "feature_extractor"))


def _ready(pipeline: Any) -> Any:
    """The pipeline in evaluation, quiet, and with embeddings that have a row for every token of the stand-ins."""
    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        part.eval()
        _fill(part)
        if "text_encoder" in name:
            _widen(part)
    pipeline.set_progress_bar_config(disable=True)
    shrink(pipeline)
    if hasattr(pipeline, "disable_safety_checker"):
        pipeline.disable_safety_checker()
    return pipeline


def _fill(network: torch.nn.Module) -> None:
    """Weights that the class leaves as the memory was become small and random."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if not bool(torch.isfinite(weight).all()):
            torch.nn.init.normal_(weight, std=0.02, generator=generator)


def _widen(encoder: Any) -> None:
    configs = {id(part.config): part.config for part in encoder.modules() if hasattr(part, "config")}
    for config in configs.values():
        if hasattr(config, "image_token_id"):
            config.image_token_id = IMAGE_TOKEN
    try:
        if encoder.get_input_embeddings().num_embeddings < _TOKENS:
            torch.manual_seed(0)
            encoder.resize_token_embeddings(_TOKENS, mean_resizing=False)
    except (AttributeError, NotImplementedError, KeyError):  # it embeds no tokens
        return


def fresh_inputs(built: Built, *, bare: bool = False) -> dict[str, Any]:
    """Arguments of a call, new objects every time.

    The pipeline's own tests say them. If another pipeline's do, what the class does not take is left out, and what it
    needs beside is a fixed picture.

    Args:
        built: The pipeline.
        bare: Whether pictures that the class takes, but does not need, are left out.
    """
    made = built.tester.made()
    asks_device = "device" in inspect.signature(made.get_dummy_inputs).parameters
    found = dict(made.get_dummy_inputs(*(("cpu",) if asks_device else ())))
    call = type(built.pipeline).__call__
    if hasattr(built.pipeline, "blocks"):
        takes = set(built.pipeline.blocks.input_names)
        return {name: value for name, value in found.items() if name in takes or not built.lent}
    found = {**small_call(built.pipeline, taken(call)), **found}
    if not built.lent:
        return found
    found = {name: value for name, value in found.items() if name in taken(call)}
    size = (found.get("width") or _SIZE, found.get("height") or _SIZE)
    for name in (required(call) | (set() if bare else taken(call) & _PICTURES)) - set(found):
        found[name] = _picture(name, size)
    return found


def _picture(name: str, size: tuple[int, int]) -> Any:
    """A fixed picture, or a mask of its right half, of a width and a height."""
    width, height = size
    if "mask" in name:
        mask = np.zeros((height, width), np.uint8)
        mask[:, width // 2 :] = 255
        return Image.fromarray(mask)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)
