"""A copy of a pipeline for one call, whose parts that change during a call are its own."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from longstride.integrations.anatomy import components_of
from longstride.integrations.encoder_blocks import remember_encoders
from longstride.integrations.probe import Probe
from longstride.integrations.remembered import Remembered

__all__ = ["FirstState", "Hooks", "copied", "modules_of"]

#: Libraries whose tokenizers and processors are shared: they are large, and a call does not change them.
_SHARED = ("transformers", "tokenizers", "PIL")


def modules_of(pipeline: Any) -> dict[str, nn.Module]:
    """The components of a pipeline that are networks, by name."""
    return {name: part for name, part in components_of(pipeline).items() if isinstance(part, nn.Module)}


def copied(pipeline: Any, probe: Probe, remembered: Remembered, first: FirstState, x: Tensor | None) -> Any:
    """A copy of a pipeline for one call.

    Networks, tokenizers and processors are shared. Guiders and other parts that count steps are copied.

    Args:
        pipeline: The pipeline.
        probe: Scheduler of the copy.
        remembered: Results of the pipeline's methods, or blocks, that encode prompts and pictures.
        first: Where the pipeline makes its first state.
        x: First state to put there, shape ``(B, *)``, or None for the pipeline's own.
    """
    mine = copy(pipeline)
    for name, part in components_of(pipeline).items():
        if name == "scheduler" or isinstance(part, nn.Module) or type(part).__module__.partition(".")[0] in _SHARED:
            continue
        mine.__dict__[name] = deepcopy(part)
    mine.scheduler = probe
    mine.set_progress_bar_config(disable=True)
    for name in dir(type(mine)):
        if name.lstrip("_").startswith("encode_") and callable(getattr(type(mine), name)):
            mine.__dict__[name] = partial(_encoded, remembered, name, getattr(mine, name))
    remember_encoders(mine, remembered)
    first.watch(mine, x)
    return mine


def _encoded(remembered: Remembered, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return remembered.result(name, method, args, kwargs)


class FirstState:
    """Where a pipeline makes its first state: in one of the tensors that its ``prepare_latents`` returns."""

    def __init__(self) -> None:
        self._made: list[Tensor] = []
        self._places: dict[int, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {}

    def known(self, size: int) -> bool:
        """Whether another first state of ``size`` entries can be put in its place."""
        return size in self._places

    def watch(self, mine: Any, x: Tensor | None) -> None:
        """Watch the methods of a copy.

        Args:
            mine: The copy.
            x: First state to put in place of the pipeline's own, or None.
        """
        self._made = []
        for name in dir(type(mine)):
            if name.startswith("prepare_latents") and callable(getattr(type(mine), name)):
                mine.__dict__[name] = partial(self._watched, getattr(mine, name), x)

    def _watched(self, method: Callable[..., Any], x: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        found = method(*args, **kwargs)
        for tensor in [one for one in _flat(found) if isinstance(one, Tensor)]:
            if x is None:
                self._made.append(tensor)
                continue
            self._made.append(tensor[:0])
            place = self._places.get(len(x))
            if place is not None and len(self._made) == place[0] + 1:
                tensor.as_strided(*place[1:]).copy_(x)
        return found

    def learn(self, state: Tensor) -> None:
        """Find the place of the first state that a call has come to with, shape ``(B, *)``."""
        for n, tensor in enumerate(self._made):
            same = tensor.untyped_storage().data_ptr() == state.untyped_storage().data_ptr()
            if same and tensor.dtype == state.dtype:
                self._places[len(state)] = (n, tuple(state.shape), state.stride(), int(state.storage_offset()))
            elif tensor.shape == state.shape and torch.equal(tensor.to(state), state):
                self._places[len(state)] = (n, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
        self._made = []


def _flat(value: Any) -> list[Any]:
    return [leaf for one in value for leaf in _flat(one)] if isinstance(value, (list, tuple)) else [value]


class Hooks:
    """The hooks of diffusers that are on the networks of a pipeline, to be put back after an error.

    Args:
        pipeline: The pipeline.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._before = {id(registry): set(registry.hooks) for registry in _registries(pipeline)}

    def reset(self) -> None:
        """Let step caches forget, as the pipeline does after its call."""
        for module in modules_of(self.pipeline).values():
            reset: Any = getattr(module, "_reset_stateful_cache", None)
            if reset is not None:
                reset()

    def put_back(self) -> None:
        """Take away the hooks that were not there, and offload the networks as the pipeline does after its call."""
        for registry in _registries(self.pipeline):
            for name in set(registry.hooks) - self._before.get(id(registry), set()):
                registry.remove_hook(name, recurse=False)
        free = getattr(self.pipeline, "maybe_free_model_hooks", self.reset)  # modular pipelines have none
        free()


def _registries(pipeline: Any) -> list[Any]:
    """diffusers' registries of hooks on the networks of a pipeline and on their parts."""
    parts = [part for module in modules_of(pipeline).values() for part in module.modules()]
    return [part._diffusers_hook for part in parts if hasattr(part, "_diffusers_hook")]
