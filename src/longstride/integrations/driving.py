"""How a pipeline is driven as a network: the options of its call, arguments of every sample, and its first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from longstride.errors import InputError
from longstride.integrations.anatomy import takes
from longstride.integrations.pipeline_denoiser import PipelineDenoiser
from longstride.zoo.text import as_prompts

__all__ = ["SEEDS_APART", "checked_options", "entries_of", "started"]

#: Samples per call of a pipeline, if nobody says how many. It is halved until a batch fits into memory.
_BATCH_SIZE = 8
#: Seeds of two calibrations do not meet.
SEEDS_APART = 1_000_003
#: Options of a call that calibration sets itself.
_REFUSED = ("generator", "num_inference_steps", "output_type", "latents")


def checked_options(pipeline: Any, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of the call, as a new dictionary.

    Raises:
        InputError: an option, or the pipeline itself, does not make whole runs from noise.
    """
    asked = dict(options or {})
    if refused := [name for name in _REFUSED if name in asked]:
        raise InputError(f"options must not hold {', '.join(refused)}: calibration sets them")
    return asked


def entries_of(
    pipeline: Any,
    asked: Mapping[str, Any],
    given: Mapping[str, Sequence[Any]],
    prompts: Sequence[str] | None,
    negative_prompt: str | None,
) -> dict[str, Sequence[Any]]:
    """Arguments of the call with one entry per sample: what is ``given``, and prompts or classes if nobody gives them.

    Raises:
        InputError: an argument is given twice, has no entries, or there are prompts for a pipeline that takes none.
    """
    taken, known = takes(pipeline), {*asked, *given}
    for name, values in given.items():
        if name in asked or name in _REFUSED:
            raise InputError(
                f"per_sample must not hold {name}: it is an option that all samples share, or calibration's"
            )
        if isinstance(values, str) or not hasattr(values, "__getitem__") or not hasattr(values, "__len__"):
            raise InputError(f"per_sample[{name!r}] must be a list or a tensor, got {type(values).__name__}")
        if len(values) == 0:
            raise InputError(f"per_sample[{name!r}] must hold at least one entry, got none")
    per_sample = dict(given)
    if "prompt" in taken and not {"prompt", "prompt_embeds"} & known:
        per_sample["prompt"] = as_prompts(prompts)
    elif "class_labels" in taken and "class_labels" not in known:
        per_sample["class_labels"] = range(1000)
    elif prompts is not None:
        raise InputError(f"{type(pipeline).__name__} takes no prompts: leave prompts out")
    if negative_prompt is not None:
        per_sample["negative_prompt"] = [negative_prompt]
    return per_sample


def started(
    made: Callable[..., PipelineDenoiser], samples: int, held_out: int, batch_size: int | None
) -> PipelineDenoiser:
    """The pipeline as a network whose first batch fits into memory. If nobody says its size, it is halved until then.

    Raises:
        InputError: the batch size does not divide the samples, or the pipeline cannot be driven from outside.
        OutOfMemoryError: torch's; the batch does not fit into memory.
    """
    size = batch_size or _BATCH_SIZE
    while True:
        if samples % size or held_out % size:
            raise InputError(
                f"samples and held_out must be multiples of the batch size {size}, got {samples} and {held_out}"
            )
        network = made(batch_size=size)
        try:
            _ = network.first
            return network
        except torch.OutOfMemoryError:
            network.close()
            if batch_size is not None or size == 1:
                raise
            size //= 2
        except BaseException as error:
            network.close()
            alone = _alone(made) if isinstance(error, Exception) else None
            if alone is None:
                raise
            return alone


def _alone(made: Callable[..., PipelineDenoiser]) -> PipelineDenoiser | None:
    """The pipeline called with one prompt and no lists, or None if it does not come to its loop in this way, either."""
    network = made(batch_size=1, single=True)
    try:
        _ = network.first
    except Exception:
        network.close()
        return None
    return network
