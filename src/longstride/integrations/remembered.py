"""Results of encoders by the content of what they were given: prompts and pictures are encoded once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Remembered", "Unreadable", "content_of"]

#: Results that are kept at most.
_MOST = 256


class Unreadable(Exception):
    """The content of a value cannot be told: a generator, or an object that is unknown."""


class Remembered:
    """Results of functions that always return the same for the same content.

    A function that a remembered function calls is not remembered itself: the hidden states of a text encoder are many
    times larger than the embeddings that a pipeline makes of them.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[Any, Any] = OrderedDict()
        self._inside = False

    def result(self, name: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a function returns, as a copy.

        Args:
            name: Name of the function.
            function: The function.
            args: Its arguments.
            kwargs: Its arguments by name.
        """
        if self._inside:
            return function(*args, **kwargs)
        try:
            key = (name, content_of((args, kwargs)))
        except Unreadable:
            return function(*args, **kwargs)
        if key not in self._results:
            self._inside = True
            try:
                found = function(*args, **kwargs)
            finally:
                self._inside = False
            try:
                self._results[key] = deepcopy(found)
            except Exception:  # what cannot be copied is not kept
                return found
            while len(self._results) > _MOST:
                self._results.popitem(last=False)
            return found
        self._results.move_to_end(key)
        return deepcopy(self._results[key])

    def forget(self, name: Any) -> None:
        """Let the results of a function go."""
        for key in [key for key in self._results if key[0] == name]:
            del self._results[key]


def content_of(value: Any) -> str:
    """A digest of a value's content.

    Raises:
        Unreadable: its content cannot be told.
    """
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    found.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        found.update(f"{tuple(value.shape)} {value.dtype} {value.device}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        found.update(f"{value.shape} {value.dtype}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for name, one in value.items():
            _add(found, name)
            _add(found, one)
    elif isinstance(value, (list, tuple)):
        found.update(str(len(value)).encode())
        for one in value:
            _add(found, one)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        found.update(repr(value).encode())
    elif hasattr(value, "tobytes") and hasattr(value, "size") and hasattr(value, "mode"):  # a picture of PIL
        found.update(f"{value.size} {value.mode}".encode() + value.tobytes())
    else:
        raise Unreadable(type(value).__name__)
