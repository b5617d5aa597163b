"""How samples are cut: each is in one unit, units do not mix, and groups of units are the same for any selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture

from longstride import processes
from longstride.calibration.units import UNIT, Batch, Units
from longstride.network import as_network

CUTS = [(samples, fitted, size) for samples, fitted in ((2, 1), (13, 7), (40, 32)) for size in (1, 3, 8, 100)]


@pytest.mark.parametrize(("samples", "fitted", "size"), CUTS)
def test_every_sample_is_in_one_unit_and_no_unit_holds_both_kinds(samples, fitted, size):
    units = Units(samples, fitted, size)
    assert [n for part in units.slices for n in range(part.start, part.stop)] == list(range(samples))
    assert all(1 <= units.count(n) <= size for n in units.all)
    assert [*units.fitted, *units.held_out] == units.all
    assert sum(map(units.count, units.fitted)) == fitted
    assert sum(map(units.count, units.held_out)) == samples - fitted
    short = [units.count(n) < size for n in units.all]
    assert sum(short) <= 2  # the last fitted one and the last held-out one


@pytest.mark.parametrize(("samples", "fitted", "size"), CUTS)
def test_the_first_units_are_as_few_as_hold_the_samples(samples, fitted, size):
    units = Units(samples, fitted, size)
    for wanted in (1, 2, 7, 16, 1000):
        found = units.first(wanted)
        held = [units.count(n) for n in found]
        assert found == units.fitted[: len(found)]
        assert sum(held) >= min(wanted, fitted)
        assert sum(held[:-1]) < wanted


@pytest.mark.parametrize("process", [(0, 1), (0, 2), (1, 2), (2, 3)])
@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_groups_hold_at_most_so_many_units_of_one_kind(process, most, monkeypatch):
    monkeypatch.setattr(processes, "rank_and_size", lambda: process)
    units = Units(40, 26, 3)
    rank, size = process
    groups = units.groups(units.all, most)
    assert [n for group in groups for n in group] == [*units.fitted[rank::size], *units.held_out[rank::size]]
    assert all(1 <= len(group) <= most for group in groups)
    assert all(len({n in units.fitted for n in group}) == 1 for group in groups)
    full = [len(group) == most for group in groups]
    assert full.count(False) <= 2


@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_units_that_are_together_are_together_in_every_selection(process, monkeypatch):
    """So a pipeline, whose calls are of fixed samples, needs no further ones."""
    monkeypatch.setattr(processes, "rank_and_size", lambda: process)
    units, rng = Units(60, 39, 3), np.random.default_rng(0)
    groups = units.groups(units.all, 3)
    for _ in range(50):
        wanted = {int(n) for n in rng.choice(units.all, rng.integers(1, len(units.all)), replace=False)}
        restricted = [tuple(n for n in group if n in wanted) for group in groups]
        assert units.groups(wanted, 3) == [group for group in restricted if group]


def test_processes_do_every_unit_once(monkeypatch):
    units, done = Units(50, 33, 4), []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank_and_size", lambda rank=rank: (rank, 3))
        done += [n for group in units.groups(units.all, 2) for n in group]
    assert sorted(done) == units.all


@pytest.mark.parametrize("index", [slice(6, 14), torch.tensor([0, 1, 2, 6, 7, 8, 12, 13])])
def test_a_batch_is_split_into_its_units(index):
    batch = Batch((0, 2, 4), (3, 3, 2), index, torch.zeros(8, 2), as_network(Mixture()))
    assert (len(batch), batch.number) == (8, 0)
    assert batch.numbers.tolist() == torch.arange(20)[index].tolist()
    parts = batch.split(batch.numbers)
    assert [len(part) for part in parts] == [3, 3, 2]
    assert np.concatenate(parts).tolist() == batch.numbers.tolist()
    assert [batch.numbers[part].tolist() for part in batch.slices] == [part.tolist() for part in parts]


def test_two_processes_can_share_what_short_fits_see():
    assert len(Units(96, 48, UNIT).first(16)) >= 2
