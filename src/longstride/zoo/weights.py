"""Digests of a network's weights, wherever they lie: compiled, offloaded, or below adapters such as LoRA."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from longstride.card_parts import Adapter

__all__ = ["adapters_of", "weights_digest"]

#: What wrappers that compute the same function put into the names of weights: torch.compile, FSDP, checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
#: Name of the wrapped layer inside a layer with adapters.
_BASE = "base_layer."


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and values (as float32) of all weights: the same on every device.

    It is the same for a compiled network, for an offloaded network and below adapters that are not fused.

    Raises:
        RuntimeError: torch's; weights cannot be read (NotImplementedError and KeyError likewise).
    """
    weights, _ = _split(network)
    return _digest(weights)


def adapters_of(network: torch.nn.Module) -> dict[str, Adapter]:
    """The adapters that are active in a network, by name. An adapter that is fused is part of the weights.

    Raises:
        RuntimeError: torch's; weights cannot be read (NotImplementedError and KeyError likewise).
    """
    scales: dict[str, list[float]] = {}
    for module in _adapted(network).values():
        active = module.active_adapters
        if getattr(module, "disable_adapters", False) or getattr(module, "merged", False):
            continue
        for name in [active] if isinstance(active, str) else active:
            if name in module.scaling:
                scales.setdefault(name, []).append(float(module.scaling[name]))
    others = _split(network)[1] if scales else {}
    digests = {
        name: _digest({key: value for key, value in others.items() if name in key.split(".")}) for name in scales
    }
    return {name: Adapter(scale=sum(found) / len(found), digest=digests[name]) for name, found in scales.items()}


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _adapted(network: torch.nn.Module) -> dict[str, Any]:
    """Layers that hold another layer and its adapters, by path."""
    asked = ("base_layer", "active_adapters", "scaling")
    return {path: one for path, one in network.named_modules() if all(hasattr(one, name) for name in asked)}


def _split(network: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a network, and the weights of its adapters, by the names that they have without wrappers."""
    if isinstance(network, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        network = network.module
    own: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    adapted = [f"{path}." for path in _adapted(network)]
    for name, value in _weights(network):
        above = next((path for path in adapted if name.startswith(path)), None)
        kept = own
        if above is not None and name.startswith(above + _BASE):
            name = above + name.removeprefix(above + _BASE)
        elif above is not None:
            kept = others
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        kept[name] = value
    return own, others


def _weights(network: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights by name. A weight that is offloaded is read from where it lies."""
    modules, on_disk = dict(network.named_modules()), dict(_on_disk(network))
    for name, value in network.state_dict().items():
        if name in on_disk:
            yield name, on_disk[name]
        else:
            yield name, _read(modules, name) if value.is_meta else value


def _read(modules: Mapping[str, torch.nn.Module], name: str) -> Tensor:
    """A weight that accelerate keeps for a module or for one of the modules around it.

    Raises:
        KeyError: nobody keeps it.
    """
    parts = name.split(".")
    for cut in range(len(parts) - 1, -1, -1):
        hook = getattr(modules[".".join(parts[:cut])], "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            kept, inner = getattr(one, "weights_map", None), ".".join(parts[cut:])
            if kept is not None and inner in kept:
                found: Tensor = kept[inner]
                return found
    raise KeyError(name)


def _on_disk(network: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights that diffusers' group offloading has put on disk, by name."""
    places: dict[int, tuple[str, str]] = {}
    for module in network.modules():
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            group: Any = getattr(hook, "group", None)
            if getattr(group, "_is_offloaded_to_disk", False):
                places |= {id(one): (group.safetensors_file_path, key) for one, key in group.tensor_to_key.items()}
    if not places:
        return
    from safetensors import safe_open

    for name, one in [*network.named_parameters(), *network.named_buffers()]:
        if id(one) in places:
            path, key = places[id(one)]
            with safe_open(path, framework="pt") as file:
                yield name, file.get_tensor(key)
