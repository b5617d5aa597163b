"""A card in a pipeline, after everything that a card knows of its making was compared with the call to come.

pipe(prompt, **use_card(pipe, "card.json", height=512, width=512))
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longstride.book import CardBook, load_any
from longstride.book_parts import Unjudged
from longstride.card import Card
from longstride.card_parts import Adapter, CallInfo, LevelData, ModelInfo
from longstride.errors import CardError, InputError
from longstride.integrations.anatomy import takes
from longstride.integrations.cards import other_settings
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.guidance_seen import GuidanceWatch
from longstride.integrations.made_for import call_of, denoisers_of, model_of
from longstride.integrations.origins import said

__all__ = ["differences", "use_card"]

#: Options under which a pipeline begins late or ends early, with the values under which it makes a whole run.
_CUT = {"denoising_start": 0.0, "denoising_end": 1.0, "strength": 1.0}
#: Settings that the shape of the state decides; a pipeline chooses them by itself if they are None.
_SIZES = ("height", "width", "num_frames", "video_length", "resolution")


def use_card(
    pipeline: Any,
    card: str | Path | Card | CardBook,
    *,
    strict: bool = True,
    scheduler: Mapping[str, Any] | None = None,
    **call: Any,
) -> dict[str, Any]:
    """Put a card into a pipeline, after comparing what it was made for with what the pipeline is about to do.

    Compared are the weights of all networks of the loop, active adapters, guidance, sizes and other options of the
    call, guiders, and the scheduler's settings. Guidance is looked at again in the first step of every run: another
    weight of the network's predictions than in the calibration is another guidance, whatever it is called.

    Args:
        pipeline: A diffusers pipeline. Its scheduler is replaced.
        card: A card, a book of cards, or the path or hub repository of one.
        strict: Whether a difference is an error. Otherwise one warning says all differences, and the card runs where
            its scheduler can run it.
        scheduler: Settings in place of the pipeline's, as for
            :func:`~longstride.integrations.pipelines.calibrate_pipeline`.
        **call: Arguments of the call, without the prompt. A book needs ``num_inference_steps``.

    Returns:
        ``call`` with what it left out: the card's number of steps, its guidance, and other settings that were not the
        pipeline's defaults.

    Raises:
        CardError: ``strict``, and the card is for something else; or the file is no card.
        InputError: a book without a number of steps.
    """
    loaded = card if isinstance(card, (Card, CardBook)) else load_any(card)
    if isinstance(loaded, CardBook) and "num_inference_steps" not in call:
        raise InputError(f"this is a book of {loaded.contents}: say which with num_inference_steps=")
    steps = call.get("num_inference_steps") or (loaded.nfe if isinstance(loaded, Card) else 0)
    found = _chosen(loaded, steps, call, strict)
    made = found.near if isinstance(found, Unjudged) else found
    completed = _completed(pipeline, made, found.model.guidance, {"num_inference_steps": steps, **call})
    config = {**said(pipeline.scheduler.config), **(scheduler or {})}
    known = differences(pipeline, made, completed, found.model.guidance)
    known += [f"the card was calibrated with {one}" for one in other_settings(made, config)]
    if isinstance(found, Unjudged) and found.how == "base":
        known = [found.note]
    elif made.nfe != steps:
        known.append(f"the card is for {made.nfe} network calls, not {steps}: set num_inference_steps={made.nfe}")
    if known:
        told = f"this card was made for something else: {'; '.join(known)}"
        if strict:
            raise CardError(f"{told}. Change the call, calibrate a card for it, or use this card with strict=False")
        warnings.warn(told, stacklevel=2)
    replaced = {**(scheduler or {}), "strict": strict}
    if found.model.guidance is not None:  # the scale of a guider is compared with the guider's
        replaced["guidance_scale"] = {**takes(pipeline), **completed}.get("guidance_scale", found.model.guidance)
    mine = LongstrideScheduler.from_card(loaded, made.scheduler or config, **replaced)
    if made.call is not None and not isinstance(found, Unjudged):
        mine.watch(GuidanceWatch(denoisers_of(pipeline).values(), made.call.seen, made.call.told))
    pipeline.scheduler = mine
    return completed


def _chosen(loaded: Card | CardBook, steps: int, call: Mapping[str, Any], strict: bool) -> Card | Unjudged:
    """The card itself, or the table that a book has for the call.

    Raises:
        CardError: the book has several, or ``strict`` and it has none.
    """
    if isinstance(loaded, Card):
        return loaded
    try:
        return loaded.choose(steps, call.get("guidance_scale"), strict=strict)
    except InputError as error:
        raise CardError(f"{error}: set num_inference_steps and guidance_scale to what it holds") from None


def _completed(pipeline: Any, card: Card, guidance: float | None, call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with the card's settings where the call and the pipeline's defaults have others."""
    defaults = takes(pipeline)
    wanted = {} if card.call is None else dict(card.call.settings)
    if guidance is not None:
        wanted["guidance_scale"] = guidance
    missing = {
        name: value
        for name, value in wanted.items()
        if name in defaults and name not in call and not _is_digest(value) and not _equal(defaults[name], value)
    }
    return {**call, **missing}


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")


def differences(pipeline: Any, card: Card, call: Mapping[str, Any], guidance: float | None) -> list[str]:
    """What differs between what a card was made for and a call of a pipeline, each in words.

    Args:
        pipeline: The pipeline.
        card: The card.
        call: Arguments of the call.
        guidance: Guidance scale of the card's table.
    """
    found = [*_cut(pipeline, call, card), *_networks(card.model, model_of(pipeline))]
    now = call_of(pipeline, call)
    if card.call is not None:
        then = dict(card.call.settings)
        if guidance is not None and "guidance_scale" in then:  # a book's table between two cards has its own
            then["guidance_scale"] = guidance
        return [*found, *_calls(card.call.model_copy(update={"settings": then}), now)]
    asked = now.settings.get("guidance_scale")
    if guidance is None and card.scheduler is not None:  # before version 4: the pipeline's default
        guidance = takes(pipeline).get("guidance_scale")
    if asked is not None and not _equal(asked, 1.0 if guidance is None else guidance):
        found.append(f"guidance_scale is {asked:g}, the card's {'none' if guidance is None else f'{guidance:g}'}")
    return found


def _cut(pipeline: Any, call: Mapping[str, Any], card: Card) -> Iterator[str]:
    """Options that make a run begin late, end early, or visit other levels."""
    in_force = {name: value for name, value in {**takes(pipeline, call), **call}.items() if value is not None}
    for name, whole in _CUT.items():
        if name in in_force and in_force[name] != whole:
            yield f"{name}={in_force[name]!r} does not make a whole run: leave it out, or set it to {whole!r}"
    levels = LevelData() if card.call is None or card.call.levels is None else card.call.levels
    for name in ("timesteps", "sigmas"):
        given = in_force.get(name)
        own = getattr(levels, name)
        if given is not None and (
            own is None or not LevelData(sigmas=own).same(LevelData(sigmas=tuple(map(float, given))))
        ):
            yield f"{name} of the call are not the card's: leave them out"


def _networks(then: ModelInfo, now: ModelInfo) -> Iterator[str]:
    """Networks and adapters that differ."""
    if then.networks:
        for name in sorted({*then.networks, *now.networks}):
            mine, theirs = then.networks.get(name), now.networks.get(name)
            if name not in now.networks or name not in then.networks:
                which = "the calibration" if name in then.networks else "this pipeline"
                yield f"only {which} has a {name}"
            elif mine and theirs and mine != theirs:
                yield f"{name} has other weights ({theirs[:12]}, the card's {mine[:12]})"
        yield from _adapters(then.adapters, now.adapters)
        return
    # Cards before version 4 know the weights of one network, and adapters as part of them.
    first = next((one for one in ("unet", "transformer") if one in now.networks), next(iter(now.networks), ""))
    own = now.networks.get(first)
    if then.fingerprint and own and then.fingerprint not in (own, now.fingerprint):
        yield f"{first} has other weights ({own[:12]}, the card's {then.fingerprint[:12]})"
    yield from _adapters({}, now.adapters)


def _adapters(then: Mapping[str, Adapter], now: Mapping[str, Adapter]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if name not in then:
            yield f"adapter {name} was loaded since: unload it"
        elif name not in now:
            yield f"adapter {name} is missing: load it"
        elif then[name].digest != now[name].digest:
            yield f"adapter {name} has other weights"
        elif not _equal(then[name].scale, now[name].scale):
            yield f"adapter {name} has scale {now[name].scale:g}, the card's {then[name].scale:g}"


def _calls(then: CallInfo, now: CallInfo) -> Iterator[str]:
    """Options of two calls that differ."""
    if then.pipeline != now.pipeline:
        yield f"the pipeline is {now.pipeline}, the card's {then.pipeline}"
        return
    for name in sorted({*then.settings, *now.settings}):
        mine, theirs = _in_force(then.settings, name), _in_force(now.settings, name)
        if _equal(mine, theirs) or (name in _SIZES and None in (mine, theirs)):
            continue
        yield f"{name} is {theirs!r}, the card's {mine!r}"
    for name in sorted({*then.conditions} ^ {*now.conditions}):
        had = name in then.conditions
        yield f"the calibration {'had' if had else 'had no'} {name}, this call has {'none' if had else 'one'}"


def _in_force(settings: Mapping[str, Any], name: str) -> Any:
    """A setting. What a second encoder or network is not given is what the first was given, as in all pipelines."""
    value = settings.get(name)
    first = name.removesuffix("_2").removesuffix("_3")
    return settings.get(first) if value is None and first != name else value


def _equal(one: Any, other: Any) -> bool:
    numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
    if numbers and not isinstance(one, bool) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=1e-6)
    if isinstance(one, tuple) or isinstance(other, tuple):
        return (list(one) if isinstance(one, tuple) else one) == (list(other) if isinstance(other, tuple) else other)
    return bool(one == other)
