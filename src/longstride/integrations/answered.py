"""Networks that are answered without being computed, and encoders that are computed once, in the calls of a probe.

A pipeline's call must go through its first steps to come to a later step. What its networks return in these steps is of
no account: the probe puts another state in place of what the steps make of it. So the networks are answered there: by
an output of the right structure and shapes, full of NaN, so that a pipeline that keeps such an output cannot hide it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from longstride.integrations.remembered import Remembered

__all__ = ["Answers", "poisoned"]

#: What is called of a component: as a module, or as an encoder of pictures.
_ENTRIES = ("forward", "encode")


class Answers:
    """Wrappers on the components of a pipeline that act in the thread of one call at a time.

    Wrappers are there only while a call of a probe goes on, from :meth:`resume` to :meth:`pause`: hooks that offload or
    compile a component are set and taken away at other times.

    Args:
        modules: The components that are networks, by name.
        remembered: Results of encoders.

    Attributes:
        answering: Whether networks that are called in the loop are answered.
        looping: Whether the call has come to its first step.
        pattern: What was called since :meth:`take`: the networks of the loop with the kinds of their arguments.
    """

    def __init__(self, modules: Mapping[str, nn.Module], remembered: Remembered) -> None:
        self.modules, self.remembered = dict(modules), remembered
        self.answering = self.looping = False
        self.pattern: list[Any] = []
        self._known: dict[Any, Any] = {}
        self._networks: set[str] = set()  # components that the loop calls
        self._thread, self._depth = 0, 0
        self._put: list[tuple[nn.Module, str, Any, Any]] = []

    def resume(self) -> None:
        """Act from now on, in the thread that calls this."""
        self._thread, self._depth = threading.get_ident(), 0
        for name, module in self.modules.items():
            for entry in _ENTRIES:
                if callable(getattr(module, entry, None)):
                    self._wrap(name, module, entry)

    def pause(self) -> None:
        """Leave the components as they were."""
        self._thread = 0
        while self._put:
            module, name, wrapper, before = self._put.pop()
            if module.__dict__.get(name) is not wrapper:
                continue  # the pipeline has put something else there
            if before is _ABSENT:
                del module.__dict__[name]
            else:
                module.__dict__[name] = before

    def take(self) -> tuple[Any, ...]:
        """The pattern so far, which begins anew."""
        found, self.pattern = tuple(self.pattern), []
        return found

    def _wrap(self, name: str, module: nn.Module, entry: str) -> None:
        # The instance's own dictionary: a compiled module hands attributes on to the module inside.
        compiled = module.__dict__.get("_compiled_call_impl")
        own = original = getattr(module, entry)
        if entry == "forward" and compiled is not None:  # compiled in place: it would compile the wrapper, too
            original = partial(_without, module, entry, module.__dict__.get(entry, _ABSENT), compiled)
            self._set(module, "_compiled_call_impl", None)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread or self._depth:
                return original(*args, **kwargs)
            self._depth += 1
            try:
                return self._called(name, entry, original, args, kwargs)
            finally:
                self._depth -= 1

        # Modular pipelines ask a network for its signature. functools.wraps would copy marks of a compiler, too.
        with suppress(TypeError, ValueError):
            wrapper.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
        self._set(module, entry, wrapper)

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        self._put.append((module, name, value, module.__dict__.get(name, _ABSENT)))
        module.__dict__[name] = value

    def _called(self, name: str, entry: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if entry == "encode":
            return self.remembered.result((name, entry), original, args, kwargs)
        if self.looping and name not in self._networks:
            self._networks.add(name)
            self.remembered.forget((name, entry))
        if self._networks and name not in self._networks:
            return self.remembered.result((name, entry), original, args, kwargs)
        key = (name, _kind((args, kwargs), values=False))
        self.pattern.append((name, _kind((args, kwargs), values=True)))
        if self.answering and name in self._networks and key in self._known:
            return poisoned(self._known[key])
        found = original(*args, **kwargs)
        if key not in self._known:
            self._known[key] = _emptied(found)
        return found


_ABSENT = object()


def _without(
    module: nn.Module, entry: str, before: Any, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """What a function returns while a wrapper on a module is not there.

    Args:
        module: The module.
        entry: Name that the wrapper has.
        before: What stood there before the wrapper, in the module's own dictionary.
        function: The function.
        *args: Its arguments.
        **kwargs: Its arguments by name.
    """
    wrapper = module.__dict__.pop(entry)
    if before is not _ABSENT:
        module.__dict__[entry] = before
    try:
        return function(*args, **kwargs)
    finally:
        module.__dict__[entry] = wrapper


def _kind(value: Any, *, values: bool) -> Any:
    """What is alike in calls whose outputs have one structure: names, shapes and switches.

    Args:
        value: An argument.
        values: Whether numbers count, too.
    """
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.dtype)
    if isinstance(value, Mapping):
        return tuple((str(name), _kind(one, values=values)) for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_kind(one, values=values) for one in value)
    if value is None or isinstance(value, (bool, str)):
        return value
    return value if values and isinstance(value, (int, float)) else type(value).__name__


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """A structure with other tensors in it."""
    return torch.utils._pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


class _Empty:
    """Shape, kind and place of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device

    def filled(self) -> Tensor:
        value = float("nan") if self.dtype.is_floating_point or self.dtype.is_complex else 0
        return torch.full(self.shape, value, dtype=self.dtype, device=self.device)


def _emptied(output: Any) -> Any:
    """An output's structure, without its numbers."""
    return _mapped(_Empty, output)


def poisoned(output: Any) -> Any:
    """A new output of a structure that :func:`_emptied` has made: full of NaN."""
    return torch.utils._pytree.tree_map(lambda leaf: leaf.filled() if isinstance(leaf, _Empty) else leaf, output)
