"""A card in a pipeline, checked before anything is drawn: the one place of the command line that does it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from longstride.book import CardBook
from longstride.card import Card
from longstride.errors import CardError

__all__ = ["put_card"]


def put_card(
    pipeline: Any, loaded: Card | CardBook, arguments: Mapping[str, Any], *, any_model: bool
) -> tuple[dict[str, Any], list[str]]:
    """Put a card's scheduler into a pipeline.

    Args:
        pipeline: The pipeline, with its own scheduler.
        loaded: The card or the book.
        arguments: Arguments of the call.
        any_model: Whether the card may be of other weights or another call.

    Returns:
        The arguments, completed by what the card knows, and what is to be said of a card that was made for something
        else.

    Raises:
        CardError: the card was made for something else.
    """
    from longstride.integrations.use_card import use_card

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            completed = use_card(pipeline, loaded, strict=not any_model, **arguments)
        except CardError as error:
            raise CardError(str(error).replace("strict=False", "--any-model")) from None
    return completed, [str(one.message) for one in told if "made for something else" in str(one.message)]
