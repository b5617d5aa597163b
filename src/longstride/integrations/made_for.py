"""What a card is made for: the networks of a pipeline and what its call is told."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from longstride.card_parts import Adapter, CallInfo, LevelData, ModelInfo
from longstride.integrations.anatomy import components_of, takes
from longstride.integrations.run_levels import LevelRequest
from longstride.zoo.weights import adapters_of, weights_digest

__all__ = ["MadeFor", "call_of", "denoisers_of", "made_for", "model_of"]

#: Arguments of a call that say how it is made or what becomes of its result, and not which function the network is.
_NOT_SETTINGS = (
    "self",
    "args",
    "kwargs",
    "state",
    "output",
    "generator",
    "latents",
    "num_inference_steps",
    "timesteps",
    "sigmas",
    "eta",
    "batch_size",
    "class_labels",
    "output_type",
    "return_dict",
    "original_inference_steps",
)
#: Beginnings and ends of the names of further such arguments.
_NOT_BEGINNINGS, _NOT_ENDS = ("callback", "decode_"), ("_per_prompt", "_noise_sampling_fn")
#: Ends of names by which one condition may be given in several forms.
_FORMS = ("_2", "_3", "_4", "_mask", "_attention", "_embeds", "_latents", "_prompt_embeds", "_pooled")
#: A longer setting is kept as its digest.
_LONGEST = 200


@dataclass(frozen=True)
class MadeFor:
    """What a card is made for.

    Attributes:
        model: The networks, and the guidance scale.
        call: The call of the pipeline.
    """

    model: ModelInfo
    call: CallInfo


def made_for(
    pipeline: Any,
    options: Mapping[str, Any],
    per_sample: Collection[str] = (),
    *,
    shape: tuple[int, ...] | None = None,
    request: LevelRequest | None = None,
    seen: tuple[float, ...] | None = None,
    told: float | None = None,
) -> MadeFor:
    """What a card of a pipeline's call is made for.

    Args:
        pipeline: The pipeline.
        options: Arguments of its call; what they leave out is the pipeline's default.
        per_sample: Names of further arguments, whose values differ from sample to sample.
        shape: Shape of one state.
        request: What the pipeline gave to ``set_timesteps``.
        seen: Weights of the network's predictions, see :mod:`longstride.integrations.guidance_seen`.
        told: Guidance scale that the network was told.
    """
    call = call_of(pipeline, options, per_sample)
    levels = None if request is None else LevelData.model_validate(vars(request))
    model = model_of(pipeline).model_copy(update={"guidance": _guidance(call.settings), "shape": shape})
    return MadeFor(model, call.model_copy(update={"levels": levels, "seen": seen, "told": told}))


def denoisers_of(pipeline: Any) -> dict[str, torch.nn.Module]:
    """The networks that a pipeline calls in its loop, by the names of their components.

    A network of the loop is told a time. Text encoders and autoencoders are not.
    """
    found = {name: one for name, one in components_of(pipeline).items() if _is_told_a_time(one)}
    usual = {name: getattr(pipeline, name, None) for name in ("unet", "transformer")}
    return found or {name: one for name, one in usual.items() if isinstance(one, torch.nn.Module)}


def _is_told_a_time(component: Any) -> bool:
    if not isinstance(component, torch.nn.Module):
        return False
    network = getattr(component, "_orig_mod", component)
    names = inspect.signature(type(network).forward).parameters
    return any(name in ("t", "sigma") or "timestep" in name or name.endswith("_time") for name in names)


def model_of(pipeline: Any) -> ModelInfo:
    """The networks of a pipeline, without a guidance scale and a shape."""
    digests: dict[str, str | None] = {}
    adapters: dict[str, Adapter] = {}
    for name, network in denoisers_of(pipeline).items():
        try:
            digests[name] = weights_digest(network)
            adapters |= {f"{name}/{adapter}": one for adapter, one in adapters_of(network).items()}
        except (
            KeyError,
            RuntimeError,
            NotImplementedError,
            TypeError,
        ):  # weights that cannot be read, as quantised ones
            digests[name] = None
    told = str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__)
    return ModelInfo(name=told, fingerprint=_fingerprint(digests), networks=digests, adapters=adapters)


def _fingerprint(digests: Mapping[str, str | None]) -> str | None:
    """One digest for all networks; for a single network its own."""
    if not digests or None in digests.values():
        return None
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def call_of(pipeline: Any, options: Mapping[str, Any], per_sample: Collection[str] = ()) -> CallInfo:
    """The call of a pipeline: what is in force, by name.

    Args:
        pipeline: The pipeline.
        options: Arguments of its call.
        per_sample: Names of further arguments that it is given.
    """
    settings: dict[str, Any] = dict(_own_settings(pipeline))
    conditions: set[str] = set()
    given = {**options, **dict.fromkeys(per_sample, True)}
    for name, value in {**takes(pipeline, given), **options}.items():
        if _says_nothing(name) or (value is None and name not in per_sample):
            continue
        plain = None if name in per_sample else _plain(value)
        if _is_content(name, value) or plain is None:
            conditions |= _condition(name)
        else:
            settings[name] = plain
    for name in per_sample:
        conditions |= set() if _says_nothing(name) else _condition(name)
    return CallInfo(pipeline=type(pipeline).__name__, settings=settings, conditions=tuple(sorted(conditions)))


def _own_settings(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Settings of the pipeline itself that are not in its call: its guiders, and numbers of its configuration."""
    for name, one in components_of(pipeline).items():
        if hasattr(one, "num_conditions") and hasattr(one, "config"):  # a guider
            told = {key: value for key, value in one.config.items() if not key.startswith("_")}
            yield name, _plain({"class": type(one).__name__, "enabled": getattr(one, "_enabled", True), **told})
    for key, value in getattr(pipeline, "config", {}).items():
        if not key.startswith(("_", "requires_")) and isinstance(value, (bool, int, float)):
            yield f"config.{key}", value


def _says_nothing(name: str) -> bool:
    return name in _NOT_SETTINGS or name.startswith(_NOT_BEGINNINGS) or name.endswith(_NOT_ENDS)


def _is_content(name: str, value: Any) -> bool:
    """Whether an argument is what a picture is of, such as a prompt or a picture's path."""
    texts = [value] if isinstance(value, str) else value
    told = isinstance(texts, (list, tuple)) and all(isinstance(one, str) for one in texts) and len(texts) > 0
    return told and any(kind in name for kind in ("prompt", "image", "video", "mask", "audio"))


def _condition(name: str) -> set[str]:
    """The kind of a condition, whatever its form; nothing for a prompt, which a pipeline with prompts always has."""
    kind, before = name, ""
    while kind != before:
        before = kind
        for end in _FORMS:
            kind = kind.removesuffix(end)
    if "negative" in kind:
        return {"negative_prompt"}
    return set() if "prompt" in name else {kind}


def _plain(value: Any) -> Any:
    """A value as JSON, or None for what is no plain value. Long values become digests."""
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, default=_number)
    except (TypeError, ValueError):
        return None
    if len(text) > _LONGEST:
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return json.loads(text)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")


def _guidance(settings: Mapping[str, Any]) -> float | None:
    """The guidance scale in force: the pipeline's, or else its guider's."""
    guiders = [value for value in settings.values() if isinstance(value, dict)]
    for scale in (settings.get("guidance_scale"), *(one.get("guidance_scale") for one in guiders)):
        if isinstance(scale, (int, float)) and math.isfinite(scale):
            return float(scale)
    return None
