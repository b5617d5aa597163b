"""What a pipeline of diffusers consists of, and what its call takes."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["components_of", "takes"]


def components_of(pipeline: Any) -> dict[str, Any]:
    """Components of a pipeline by name, without those that are missing."""
    return {name: one for name, one in pipeline.components.items() if one is not None}


def takes(pipeline: Any) -> dict[str, Any]:
    """Arguments of a pipeline's call with their defaults; None for an argument that has none.

    The arguments of a modular pipeline are the inputs of its blocks.
    """
    blocks = getattr(pipeline, "blocks", None)
    if blocks is not None and hasattr(blocks, "inputs"):
        return {str(one.name): one.default for one in blocks.inputs if one.name}
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    return {one.name: None if one.default is inspect.Parameter.empty else one.default for one in parameters}
