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


# Too little memory

#: How memory that is too small shows: on a GPU, on the CPU, in NumPy.
NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 137438953472 bytes"),
    MemoryError(),
)


def crowded(room, error, sizes, condition=None):
    """An exact denoiser that has room for so many samples per call."""

    def network(x, t, c=None):
        if len(x) > room:
            raise error
        sizes.append(len(x))
        return Mixture()(x, float(t[0])) + (0 if c is None else c.view(-1, 1))

    return ls.as_denoiser(network, SCHEDULE, "data", condition=condition)


@pytest.mark.parametrize("error", NO_MEMORY, ids=("gpu", "cpu", "numpy"))
def test_a_call_that_does_not_fit_into_memory_is_made_in_halves_and_the_log_says_so(error, caplog):
    x, labels, sizes = torch.randn(13, 3, generator=torch.Generator().manual_seed(0)), torch.arange(13.0), []
    network = in_batches(crowded(4, error, sizes, {"c": labels}), 100)
    wanted = Mixture()(x, 0.7) + labels[:, None]
    assert torch.allclose(network(x, 0.7), wanted, atol=1e-6)
    assert sizes == [3, 3, 3, 3, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "13 samples in one network call do not fit into memory: from now on it gets 6 at a time",
        "6 samples in one network call do not fit into memory: from now on it gets 3 at a time",
    ]
    assert torch.allclose(network.select(slice(5, 13))(x[5:], 0.7), wanted[5:], atol=1e-6)  # a view knows it
    assert sizes[5:] == [3, 3, 2]
    assert network.calls == 13 + 8  # calls that failed do not count
    assert len(caplog.records) == 2


def test_a_call_that_fails_in_the_middle_goes_on_from_there():
    x, sizes, failing = torch.zeros(8, 2), [], iter([False, True, False, False, False])

    def network(x, sigma):
        if next(failing):
            raise NO_MEMORY[0]
        sizes.append(len(x))
        return x

    assert in_batches(network, 4)(x, 1.0).shape == (8, 2)
    assert sizes == [4, 2, 2]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("a shape is wrong")])
def test_what_no_smaller_batch_helps_is_raised(error):
    with pytest.raises(type(error), match=str(error)):
        in_batches(crowded(0, error, []), 8)(torch.zeros(8, 2), 1.0)


def test_a_calibration_survives_too_little_memory(caplog):
    """Its numbers are those with memory for all, up to rounding."""
    sigmas = ls.grid("karras", 4, schedule=SCHEDULE, final="sigma_min")
    noise = 10 * torch.randn(48, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = {"iterations": 2, "scouts": 1, "scout_samples": 16, "reference_steps": 12}
    found = [
        ls.calibrate(crowded(room, NO_MEMORY[0], []), noise, ls.build("ddim", sigmas), **settings)
        for room in (10**6, 10)
    ]
    assert "do not fit into memory" in caplog.text
    assert found[0].end.accepted
    assert found[0].table.distance(found[1].table) < 1e-9
    assert found[0].calls == found[1].calls
