"""A digest belongs to the weights: not to a compiler, an offloading hook or an adapter around them."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_unet

from longstride.zoo.weights import adapters_of, weights_digest


class Adapted(torch.nn.Module):
    """A layer with adapters, in the names and attributes of peft."""

    def __init__(self, layer: torch.nn.Linear, **scales: float) -> None:
        super().__init__()
        self.base_layer, self.scaling, self.active_adapters = layer, scales, list(scales)
        down, up = torch.nn.Linear(4, 2, bias=False), torch.nn.Linear(2, 4, bias=False)
        self.lora_A = torch.nn.ModuleDict({name: copy.deepcopy(down) for name in scales})
        self.lora_B = torch.nn.ModuleDict({name: copy.deepcopy(up) for name in scales})
        self.disable_adapters = self.merged = False


@pytest.fixture
def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))


def test_the_digest_is_over_names_shapes_and_values(network: torch.nn.Module) -> None:
    """As on the cards that were written before."""
    expected = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        expected.update(f"{name}{tuple(value.shape)}".encode())
        expected.update(value.float().numpy().tobytes())
    assert weights_digest(network) == expected.hexdigest()


@pytest.mark.parametrize("which", ["whole", "part", "parallel"])
def test_wrappers_change_nothing(network: torch.nn.Sequential, which: str) -> None:
    digest = weights_digest(network)
    if which == "part":
        network[0] = torch.compile(network[0], backend="eager")
    wrapped: torch.nn.Module = network
    if which == "whole":
        wrapped = torch.compile(network, backend="eager")
    if which == "parallel":
        wrapped = torch.nn.DataParallel(network)
    assert weights_digest(wrapped) == digest
    with torch.no_grad():
        network[2].weight[0, 0] += 1
    assert weights_digest(wrapped) != digest


@pytest.mark.parametrize("place", ["cpu", "disk", "groups", "groups on disk"])
def test_offloaded_weights_are_read_where_they_lie(place: str, tmp_path: Path) -> None:
    from accelerate import cpu_offload, disk_offload
    from diffusers.hooks import apply_group_offloading

    network = tiny_unet()
    digest, cpu = weights_digest(network), torch.device("cpu")
    if place == "cpu":
        cpu_offload(network, execution_device=cpu)
    elif place == "disk":
        disk_offload(network, str(tmp_path), execution_device=cpu)
    else:
        more = {"offload_to_disk_path": str(tmp_path)} if place == "groups on disk" else {}
        apply_group_offloading(network, cpu, cpu, offload_type="leaf_level", **more)
    if place in ("cpu", "disk"):
        assert network.conv_in.weight.is_meta
    assert weights_digest(network) == digest


def test_weights_that_are_nowhere_are_not_guessed() -> None:
    with pytest.raises(KeyError, match="weight"):
        weights_digest(torch.nn.Linear(2, 2, device="meta"))


def test_adapters_are_named_beside_the_digest(network: torch.nn.Sequential) -> None:
    digest = weights_digest(network)
    assert adapters_of(network) == {}
    layer: Any = Adapted(network[0], red=1.0, blue=0.5)
    network[0] = layer
    assert weights_digest(network) == digest
    found = adapters_of(network)
    assert {name: one.scale for name, one in found.items()} == {"red": 1.0, "blue": 0.5}
    with torch.no_grad():
        layer.lora_A["blue"].weight += 1
    again = adapters_of(network)
    assert again["red"] == found["red"]
    assert again["blue"].digest != found["blue"].digest
    layer.active_adapters = "red"
    assert list(adapters_of(network)) == ["red"]
    layer.disable_adapters = True
    assert adapters_of(network) == {}


def test_a_fused_adapter_is_part_of_the_weights(network: torch.nn.Sequential) -> None:
    digest = weights_digest(network)
    layer: Any = Adapted(network[0], red=1.0)
    network[0] = layer
    with torch.no_grad():
        layer.base_layer.weight += layer.lora_B["red"].weight @ layer.lora_A["red"].weight
    layer.merged = True
    assert adapters_of(network) == {}
    assert weights_digest(network) != digest
