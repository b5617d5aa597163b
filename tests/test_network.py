"""Every denoiser in one form: its calls are counted, its conditions are cut along, and no call is too large."""

from __future__ import annotations

import pytest
import torch
from problems import Mixture

import longstride as ls
from longstride.network import PlainNetwork, as_network, in_batches

SCHEDULE = ls.Schedule.edm(0.05, 10.0)


def labelled(labels, sizes=None, guidance=None):
    """A network that returns the label of every sample."""

    def network(x, t, c):
        if sizes is not None:
            sizes.append(len(x))
        return x * 0 + c.view(-1, 1)

    unguided = {} if guidance is None else {"guidance": guidance, "uncondition": {"c": torch.zeros(1)}}
    return ls.as_denoiser(network, SCHEDULE, "data", condition={"c": labels}, **unguided)


def test_batches_cut_per_sample_conditions():
    schedule = ls.Schedule.edm(0.05, 10.0)
    denoiser = ls.as_denoiser(
        lambda x, t, c: x * 0 + c.view(-1, 1), schedule, "data", condition={"c": torch.arange(7.0)}
    )
    out = in_batches(denoiser, 3)(torch.zeros(7, 2), 1.0)
    assert out[:, 0].tolist() == list(range(7))


def test_a_callable_is_a_network_whose_calls_are_counted():
    network = as_network(Mixture())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x, 0.7), Mixture()(x, 0.7))
    assert torch.equal(network.select(slice(2))(x[:2], 0.7), Mixture()(x[:2], 0.7))
    assert torch.equal(network.repeat(2)(torch.cat([x, x]), 0.7), Mixture()(torch.cat([x, x]), 0.7))
    assert network.calls == 5 + 2 + 10  # of views, too
    assert (network.schedule, network.guidance, network.condition, network.cost) == (None, None, {}, 1)


def test_what_a_callable_says_of_itself_is_kept():
    class Told(Mixture):
        schedule, guidance, condition = SCHEDULE, 2.0, {"c": 1}

    network = as_network(Told())
    assert isinstance(network, PlainNetwork)
    assert (network.schedule, network.guidance, network.condition) == (SCHEDULE, 2.0, {"c": 1})


def test_networks_are_made_once():
    denoiser = labelled(torch.arange(7.0))
    for network in (denoiser, as_network(Mixture()), in_batches(denoiser, 3)):
        assert as_network(network) is network


@pytest.mark.parametrize("guidance", [None, 3.0])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_no_call_is_larger_and_every_sample_keeps_its_condition(size, guidance):
    """Selected, repeated, or both."""
    sizes, labels = [], torch.arange(7.0)
    denoiser = labelled(labels, sizes, guidance)
    network, factor = in_batches(denoiser, size), 1 if guidance is None else guidance
    some = torch.tensor([6, 1, 4])
    for view, wanted in (
        (network, labels),
        (network.select(slice(2, 6)), labels[2:6]),
        (network.select(some), labels[some]),
        (network.repeat(3), labels.repeat(3)),
        (network.select(some).repeat(2), labels[some].repeat(2)),
    ):
        before, cost = network.calls, len(sizes)
        assert view(torch.zeros(len(wanted), 2), 1.0)[:, 0].tolist() == (factor * wanted).tolist()
        assert network.calls - before == len(wanted) * network.cost == view.calls - before
        assert len(sizes) - cost == -(-len(wanted) // size)
    assert max(sizes) <= size * network.cost
    assert (network.schedule, network.guidance) == (SCHEDULE, guidance)
    assert network.condition["c"] is labels


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(size):
    with pytest.raises(ls.InputError, match=f"batch size must be at least 1, got {size}"):
        in_batches(Mixture(), size)
