"""A card in a pipeline with its guard: the pipeline is called again, with the base, for the pictures that are flagged.

found = sample_guarded(pipe, "card.json", prompt=prompts, generator=generators)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.book import CardBook, load_any
from longstride.card import Card
from longstride.errors import InputError
from longstride.guard import Monitor, Seen
from longstride.integrations.use_card import use_card

__all__ = ["GuardedOutput", "sample_guarded"]

#: Beginnings of the names of arguments that have one entry per prompt if they are lists or tensors.
_EACH = ("prompt", "negative_prompt", "pooled_", "negative_pooled_", "class_labels", "image", "mask", "control_image",
         "ip_adapter_image", "padding_mask", "attention_mask", "text_", "audio")  # fmt: skip
#: Arguments that are lists and are shared by all pictures.
_SHARED = ("timesteps", "sigmas", "callback_on_step_end_tensor_inputs", "skip_guidance_layers", "custom_timesteps")
#: Arguments that say how many pictures a call makes.
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")


@dataclass(frozen=True, eq=False)
class GuardedOutput:
    """Pictures of a guarded pipeline.

    Attributes:
        output: What the pipeline returned, with flagged pictures replaced by those of the base.
        flagged: Which pictures the base made, ``(B,)``, on the CPU.
        seen: What the monitor saw; None without a monitor.
    """

    output: Any
    flagged: Tensor
    seen: Seen | None

    @property
    def images(self) -> Any:
        """Pictures of the output."""
        return self.output.images


def sample_guarded(
    pipeline: Any,
    card: str | Path | Card,
    *,
    monitor: Monitor | None = None,
    strict: bool = True,
    scheduler: Mapping[str, Any] | None = None,
    **call: Any,
) -> GuardedOutput:
    """Call a pipeline with a card; pictures that the guard or a monitor flags are made again by the card's base.

    The base's pictures start from the same noise. They are those of a call with these pictures alone, bit for bit.

    Args:
        pipeline: A diffusers pipeline. Its scheduler is replaced, as by
            :func:`~longstride.integrations.pipelines.use_card`.
        card: A card with a guard, or any card beside a monitor; or the path or hub repository of one.
        monitor: A monitor of this card.
        strict: As in :func:`~longstride.integrations.pipelines.use_card`.
        scheduler: As in :func:`~longstride.integrations.pipelines.use_card`.
        **call: Arguments of the call, the prompt included. The noise must be known per picture: ``generator`` is a list
            of one generator per picture, or ``latents`` are given.

    Raises:
        InputError: the card is a book or has no guard and there is no monitor; the noise of single pictures is not
            known; an argument cannot be cut to some pictures; or the pipeline carries other than one state per picture.
        CardError: ``strict``, and the card is for something else.
        MonitorError: the monitor's policy is ``"raise"``, and it raised an alarm.
    """
    loaded = card if isinstance(card, Card) else load_any(card)
    if isinstance(loaded, CardBook):
        raise InputError("a book has no guard of its own: take one of its cards")
    if loaded.guard is None and monitor is None:
        raise InputError("this card has no guard: calibrate it with guard_share, give a monitor, or call use_card")
    pictures = _Pictures.of(call)
    states = [one.get_state() for one in pictures.generators]
    completed = use_card(pipeline, loaded, strict=strict, scheduler=scheduler, **call)
    mine = pipeline.scheduler
    mine.monitor, mine._role = monitor, "guarded"
    try:
        output = pipeline(**completed)
        flagged, seen = mine.flagged, mine.seen
        if flagged is None:
            raise InputError("the card did not run, so that no picture could be judged: see the warnings")
        if len(flagged) != pictures.count:
            raise InputError(
                f"this pipeline carries {len(flagged)} states for {pictures.count} pictures: it cannot make single "
                "pictures again; call it with use_card and look at scheduler.flagged"
            )
        again = flagged.nonzero()[:, 0].tolist()
        if again:
            for generator, state in zip(pictures.generators, states, strict=True):
                generator.set_state(state)
            mine._role = "base"
            made = pipeline(**pictures.cut(completed, again))
            output = _merged(output, made, pictures.count, again)
    finally:
        mine.monitor, mine._role = None, "alone"
    return GuardedOutput(output, flagged, seen)


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a call.

    Attributes:
        count: Number of pictures.
        prompts: Number of entries per argument with one entry per prompt.
        generators: One generator per picture; empty if ``latents`` are given alone.
    """

    count: int
    prompts: int
    generators: Sequence[torch.Generator]

    @staticmethod
    def of(call: Mapping[str, Any]) -> _Pictures:
        """The pictures of a call.

        Raises:
            InputError: the noise of single pictures is not known.
        """
        generators, latents = call.get("generator"), call.get("latents")
        if isinstance(generators, torch.Generator) and len_of(latents) is None:
            raise InputError(
                "one generator draws the noise of all pictures together: give a list of one generator per picture"
            )
        many = list(generators) if isinstance(generators, (list, tuple)) else []
        count = len(many) or len_of(latents)
        if not count:
            raise InputError(
                "pictures can only be made again from noise that is known: give generator=[...], one per picture, or "
                "latents"
            )
        each = 1
        for name in _COUNTS[:-1]:
            each *= int(call.get(name) or 1)
        if count % each:
            raise InputError(f"{count} generators or latents are not {each} per prompt")
        return _Pictures(count, count // each, many)

    def cut(self, call: Mapping[str, Any], again: Sequence[int]) -> dict[str, Any]:
        """The call for some pictures alone.

        Raises:
            InputError: an argument has one entry per prompt or picture, and it is not known which.
        """
        found, owner = dict[str, Any](), [i * self.prompts // self.count for i in again]
        for name, value in call.items():
            if name in ("generator", "latents"):
                found[name] = taken(value, again) if len_of(value) == self.count else value
            elif name in _COUNTS:
                found[name] = len(again) if name == "batch_size" else 1
            elif name.startswith(_EACH) and len_of(value) is not None:
                found[name] = self._entries(name, value, again, owner)
            elif name in _SHARED or len_of(value) is None or isinstance(value, Mapping):
                found[name] = value
            else:
                raise InputError(f"{name} is a list, and it is not known whether its entries belong to single pictures")
        return found

    def _entries(self, name: str, value: Any, again: Sequence[int], owner: Sequence[int]) -> Any:
        size = len_of(value)
        if size == self.prompts:
            return taken(value, owner)
        if size == self.count:
            return taken(value, again)
        if size == 1:
            return value
        raise InputError(f"{name} holds {size} entries for {self.prompts} prompts and {self.count} pictures")


def len_of(value: Any) -> int | None:
    """Number of entries of a list, tuple, tensor or array; None for other values."""
    held = isinstance(value, (list, tuple)) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0)
    return len(value) if held else None


def taken(values: Any, index: Sequence[int]) -> Any:
    """Some entries of a list, tuple, tensor or array."""
    if isinstance(values, (Tensor, np.ndarray)):
        return values[list(index)]
    return type(values)(values[i] for i in index)


def _merged(output: Any, made: Any, count: int, again: Sequence[int]) -> Any:
    """``output`` with the entries ``again`` of everything that has one entry per picture, from ``made``."""

    def merge(mine: Any, new: Any) -> Any:
        if len_of(mine) != count or len_of(new) != len(again):
            return mine
        if isinstance(mine, (Tensor, np.ndarray)):
            whole = mine.clone() if isinstance(mine, Tensor) else mine.copy()
            whole[list(again)] = new
            return whole
        entries = list(mine)
        for place, one in zip(again, new, strict=True):
            entries[place] = one
        return type(mine)(entries)

    put: Callable[..., Any] = replace
    if is_dataclass(output) and not isinstance(output, type):
        parts = {one.name: merge(getattr(output, one.name), getattr(made, one.name)) for one in fields(output)}
        if all(parts[one.name] is getattr(output, one.name) for one in fields(output)):
            raise InputError(f"nothing in the pipeline's {type(output).__name__} has one entry per picture")
        return put(output, **parts)
    if isinstance(output, tuple):
        return tuple(merge(mine, new) for mine, new in zip(output, made, strict=True))
    raise InputError(f"the pipeline returns {type(output).__name__}: expected its output class, or a tuple")
