"""The samples of a calibration: results depend on units and not on batches, are kept, and their calls count once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SCHEDULE, SIGMAS, exact, noise_of, samples_of

import longstride as ls
from longstride import processes
from longstride.arrays import double
from longstride.calibration.samples import Samples
from longstride.calibration.units import UNIT
from longstride.sampler import Run

TABLE = ls.build("ipndm", SIGMAS)
FITTED, HELD_OUT = 21, 19


class Seen:
    """A mixture that notes how many samples every call had."""

    def __init__(self, pause=None):
        self.sizes, self.pause = [], pause

    def __call__(self, x, sigma):
        if len(self.sizes) == self.pause:
            raise KeyboardInterrupt
        self.sizes.append(len(x))
        return Mixture()(x, sigma)


def labelled(count, sizes=None):
    """A network that shifts every sample by a number of its own."""

    def network(x, t, shift):
        if sizes is not None:
            sizes.append(len(x))
        return Mixture()(x, float(t[0])) + shift.view(-1, 1)

    return ls.as_denoiser(network, SCHEDULE, "data", condition={"shift": torch.arange(float(count)).double()})


def made(denoiser, **options):
    return samples_of(denoiser, noise_of(FITTED + HELD_OUT), exact(Mixture(), noise_of(40)), HELD_OUT, **options)


def squares(batch):
    """Squares of the last states, sample by sample."""
    with torch.inference_mode():
        end = Run(batch.noise, TABLE).finish(batch.network)
    return batch.split(double(end).square().numpy())


def shape(b):
    return (b, 6)


# Units and batches


@pytest.mark.parametrize("unit", [1, 4, UNIT, 40])
@pytest.mark.parametrize("batch_size", [None, 1, 3, 8, 16, 1000])
def test_results_do_not_depend_on_the_batches_that_the_network_sees(unit, batch_size):
    """And come in the order that they were asked for."""
    samples = made(labelled(40), unit=unit, batch_size=batch_size)
    rng = np.random.default_rng(0)
    end = ls.sample(labelled(40), noise_of(40), TABLE).square().numpy()
    for numbers in (samples.units.all, samples.units.held_out, rng.permutation(samples.units.all).tolist()):
        found = samples.map(f"squares-{len(numbers)}-{numbers[0]}", numbers, squares, shape)
        for number, value in zip(numbers, found, strict=True):
            np.testing.assert_allclose(value, end[samples.units.slices[number]], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("unit", [1, 4, UNIT, 40])
@pytest.mark.parametrize("batch_size", [None, 1, 3, 8, 16, 1000])
def test_network_calls_hold_as_many_samples_as_a_batch_may(unit, batch_size):
    """Whole units, if the batch has room for one; otherwise parts of a unit."""
    seen = Seen()
    samples = made(seen, unit=unit, batch_size=batch_size)
    samples.map("squares", samples.units.all, squares, shape)
    most, launches = batch_size or 40, 0
    for count in (FITTED, HELD_OUT):
        whole = [min(unit, count - begin) for begin in range(0, count, unit)]
        together = max(1, most // unit)
        sizes = [sum(whole[n : n + together]) for n in range(0, len(whole), together)]
        launches += sum(-(-size // most) for size in sizes)
    assert len(seen.sizes) == launches * TABLE.nfe
    assert max(seen.sizes) <= most
    assert sum(seen.sizes) == samples.ledger.calls == samples.total_calls() == 40 * TABLE.nfe


def test_a_batch_knows_its_samples():
    samples = made(labelled(40), unit=4, batch_size=10)
    for batch in samples.batches(samples.units.all):
        assert torch.equal(batch.noise, samples.noise[batch.numbers])
        assert torch.equal(samples.targets(batch), samples.reference.samples[batch.numbers])
        assert torch.equal(batch.network.condition["shift"], torch.from_numpy(batch.numbers).double())
        assert [len(part) for part in batch.split(batch.numbers)] == list(batch.sizes)


def test_targets_may_be_those_of_held_out_samples_alone():
    samples = samples_of(Mixture(), noise_of(40), exact(Mixture(), noise_of(40))[FITTED:], HELD_OUT, unit=4)
    for batch in samples.batches(samples.units.held_out):
        assert torch.equal(samples.targets(batch), exact(Mixture(), batch.noise))


# Processes


@pytest.mark.parametrize("batch_size", [3, 8, 1000])
def test_units_of_two_processes_interleave_and_select_their_own_samples(batch_size, monkeypatch):
    """Where others' units lie between, samples, conditions and targets are selected by their numbers."""
    alone = made(labelled(40), unit=4)
    wanted, scattered = alone.local("squares", alone.units.all, squares), 0
    for reference in (alone.reference.samples, alone.reference.samples[FITTED:]):
        found = {}
        for rank in range(2):
            monkeypatch.setattr(processes, "rank_and_size", lambda rank=rank: (rank, 2))
            sizes = []
            samples = samples_of(labelled(40, sizes), noise_of(40), reference, HELD_OUT, unit=4, batch_size=batch_size)
            numbers = samples.units.held_out if len(reference) == HELD_OUT else samples.units.all
            for batch in samples.batches(numbers):
                own = batch.numbers.tolist()
                scattered += own != list(range(own[0], own[-1] + 1))
                assert own == [s for n in batch.units for s in range(*samples.units.slices[n].indices(40))]
                assert torch.equal(batch.noise, noise_of(40)[own])
                assert batch.network.condition["shift"].tolist() == own
                assert torch.equal(samples.targets(batch), exact(Mixture(), noise_of(40)[own]))
            part = samples.local("squares", numbers, squares)
            assert not set(part) & set(found)
            found |= part
            assert max(sizes) <= batch_size
        assert set(found) == set(numbers)
        for number, value in found.items():
            np.testing.assert_allclose(value, wanted[number], rtol=1e-13, atol=1e-13)
    assert (scattered > 0) == (batch_size >= 8)


def test_what_every_process_computes_counts_once(monkeypatch):
    counted = []
    for rank in range(2):
        monkeypatch.setattr(processes, "rank_and_size", lambda rank=rank: (rank, 2))
        samples = made(Mixture())
        value = samples.once("sum", lambda samples=samples: samples.network(samples.noise, 1.0).sum().numpy())
        assert value == pytest.approx(float(Mixture()(noise_of(40), 1.0).sum()))
        counted.append(samples.ledger.calls)
    assert counted == [40, 0]


# What is kept


@pytest.mark.parametrize("batch_size", [4, 9, 1000])
def test_finished_units_are_read_and_their_calls_counted_once(tmp_path, batch_size):
    """Whatever batches they were computed in: here the first run was stopped after some of them."""
    whole = made(Mixture(), unit=4).map("squares", range(11), squares, shape)
    first = Seen(pause=6)
    samples = made(first, unit=4, batch_size=batch_size, journal=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        samples.map("squares", samples.units.all, squares, shape)
    kept = len([*tmp_path.glob("squares/*.npz")])
    assert 0 < kept < len(samples.units.all)
    second = Seen()
    samples = made(second, unit=4, batch_size=batch_size, journal=tmp_path)
    looked = sum(second.sizes)
    found = samples.map("squares", samples.units.all, squares, shape)
    assert sum(second.sizes) - looked == TABLE.nfe * sum(map(samples.units.count, samples.units.all[kept:]))
    assert samples.ledger.calls == 40 * TABLE.nfe
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(whole))
    third = made(Seen(pause=2), unit=4, batch_size=batch_size, journal=tmp_path)  # looked at twice, and never again
    again = third.map("squares", third.units.all, squares, shape)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(found))
    assert third.ledger.calls == 40 * TABLE.nfe


def test_what_will_be_asked_for_again_is_computed_and_counted_once():
    seen = Seen()
    samples = made(seen, unit=4)
    once = samples.map("squares", samples.units.fitted, squares, shape, again=True)
    twice = samples.map("squares", samples.units.all, squares, shape, again=True)
    np.testing.assert_array_equal(np.concatenate(once), np.concatenate(twice)[:FITTED])
    assert sum(seen.sizes) == samples.ledger.calls == 40 * TABLE.nfe
    samples.map("squares", samples.units.fitted, squares, shape)
    assert sum(seen.sizes) == 40 * TABLE.nfe


def test_a_function_that_knows_whole_batches_is_given_whole_ones(tmp_path):
    samples = made(Mixture(), unit=4, journal=tmp_path)
    samples.map("squares", samples.units.all, squares, shape)
    (tmp_path / "squares" / "2.npz").unlink()
    given = []

    def watched(batch):
        given.append(batch.units)
        return squares(batch)

    for whole, units in ((True, (0, 1, 2, 3, 4, 5)), (False, (2,))):
        samples = made(Mixture(), unit=4, journal=tmp_path)
        samples.map("squares", samples.units.all, watched, shape, whole=whole)
        assert given.pop() == units
        assert not given
        assert samples.ledger.calls == 40 * TABLE.nfe
        (tmp_path / "squares" / "2.npz").unlink()


def test_calls_of_a_preparation_are_not_counted():
    samples = made(Mixture(), unit=4)
    prepared = []

    def prepare(batch):
        batch.network(batch.noise, 1.0)
        prepared.append(batch.units)

    samples.map("squares", samples.units.all, squares, shape, prepare=prepare)
    assert [n for units in prepared for n in units] == samples.units.all
    assert samples.ledger.calls == 40 * TABLE.nfe
    assert samples.network.calls == 40 * (TABLE.nfe + 1)


def test_calls_that_are_no_multiple_of_the_samples_are_all_counted(tmp_path):
    """One call per batch of several units: none is lost, none is counted twice."""

    def first(batch):
        batch.network.select(slice(1))(batch.noise[:1], 1.0)
        return batch.split(batch.noise.numpy())

    for _ in range(2):
        samples = made(Mixture(), unit=4, journal=tmp_path)
        samples.map("first", samples.units.all, first, shape)
        assert samples.ledger.calls == 2


@pytest.mark.parametrize("kept", [False, True])
def test_a_single_call_is_kept_unit_by_unit_and_counted(tmp_path, kept):
    folder = tmp_path if kept else None
    for looks in (None, 2):
        samples = made(Seen(pause=looks if kept else None), unit=4, batch_size=12, journal=folder)
        for batch in samples.batches(samples.units.all):
            assert torch.equal(
                samples.call("call", batch, Run(batch.noise, TABLE)), Mixture()(batch.noise, TABLE.levels[0])
            )
        assert samples.ledger.calls == 40
    assert len([*tmp_path.glob("call/*.npz")]) == (len(samples.units.all) if kept else 0)


# What comes in


def test_half_precision_noise_is_worked_on_in_single():
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        samples = Samples.of(Mixture(), noise_of(8).to(dtype), TABLE)
        assert samples.noise.dtype == wanted
        assert (len(samples), samples.fitted, samples.held_out) == (8, 4, 4)


def test_the_floor_is_the_schedule_s_and_never_above_the_table():
    assert Samples.of(labelled(8), noise_of(8), TABLE).floor == pytest.approx(0.05)
    assert Samples.of(Mixture(), noise_of(8), ls.build("ddim", [10.0, 1.0, 0.2, 0.0])).floor == 0.2
    assert Samples.of(Mixture(), noise_of(8), TABLE, sigma_floor=0.01).floor == 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, "of 8 samples 0 cannot be held out"),
        ({"held_out": 8}, "of 8 samples 8 cannot be held out"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"unit": 0}, "at least 1, got 0"),
    ],
)
def test_samples_that_cannot_be_cut_are_refused(options, message):
    with pytest.raises(ls.InputError, match=message):
        Samples.of(Mixture(), noise_of(8), TABLE, **options)
