"""A card in a pipeline, checked before anything is drawn: the one place of the command line that does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longstride.book import CardBook
from longstride.card import Card, ModelInfo
from longstride.errors import CardError
from longstride.zoo.model import weights_digest

__all__ = ["check_weights", "put_card"]


def check_weights(pipeline: Any, loaded: Card | CardBook, *, any_model: bool) -> str | None:
    """Make sure that a card or a book is of the pipeline's weights.

    Args:
        pipeline: The pipeline.
        loaded: The card or the book.
        any_model: Whether other weights are allowed.

    Returns:
        What is to be said of other weights that are allowed.

    Raises:
        CardError: the weights are others.
    """
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    try:
        digest = None if network is None else weights_digest(network)
    except (RuntimeError, NotImplementedError):  # offloaded or quantised weights cannot be read
        digest = None
    name = str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__)
    mine = ModelInfo(name=name, fingerprint=digest, guidance=loaded.model.guidance)
    try:
        loaded.model.check(mine)
    except CardError as error:
        if not any_model:
            raise
        return str(error).partition(":")[0]
    return None


def put_card(
    pipeline: Any, loaded: Card | CardBook, config: Any, solver: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Put a card's scheduler into a pipeline.

    Args:
        pipeline: The pipeline.
        loaded: The card or the book.
        config: Configuration of the pipeline's own scheduler.
        solver: Runs where the card does not apply.
        arguments: Arguments of the call.

    Returns:
        The arguments, completed by what the card knows.
    """
    from longstride.integrations.diffusers import LongstrideScheduler

    guidance = arguments.get("guidance_scale")
    pipeline.scheduler = LongstrideScheduler.from_card(loaded, config, solver=solver, guidance_scale=guidance)
    return dict(arguments)
