"""What a pipeline of diffusers consists of, and what its call takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["components_of", "takes"]


def components_of(pipeline: Any) -> dict[str, Any]:
    """Components of a pipeline by name, without those that are missing."""
    return {name: one for name, one in pipeline.components.items() if one is not None}


def takes(pipeline: Any, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of a pipeline's call with their defaults; None for an argument that has none.

    The arguments of a modular pipeline are the inputs of its blocks.

    Args:
        pipeline: The pipeline.
        given: Arguments of one call. A modular pipeline then takes what the blocks of that call take.
    """
    blocks = getattr(pipeline, "blocks", None)
    if blocks is not None and hasattr(blocks, "inputs"):
        every = _inputs(blocks)
        return every if given is None else _inputs(_running(blocks, every, given))
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    return {one.name: None if one.default is inspect.Parameter.empty else one.default for one in parameters}


def _inputs(blocks: Any) -> dict[str, Any]:
    return {str(one.name): one.default for one in blocks.inputs if one.name}


def _running(blocks: Any, every: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The blocks of a modular pipeline that run in a call; all of them if its blocks do not choose."""
    prompts = {"prompt": True} if "prompt" in every and "prompt_embeds" not in given else {}
    try:
        return blocks.get_execution_blocks(**{**every, **prompts, **given})
    except NotImplementedError:  # a block alone
        return blocks
