"""Where fits start: the strongest on the samples that decide, and the best on each of the best grids."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import longstride as ls
from longstride.calibration.endpoint.short_fits import chosen_starts, ranked


def newton_of(errors):
    """What is asked of a fit: the errors of tables on its fitted and its held-out samples."""
    return SimpleNamespace(fitted=[0], held_out=[1], errors=errors, measure=lambda tables, numbers: None)


def test_scouts_are_the_best_of_the_best_grids():
    ranking = ["ipndm4@karras", "ipndm3@karras", "ipndm4@dp", "unipc3@dp", "ddim@karras", "ddim@uniform"]
    assert chosen_starts(ranking, 1) == ["ipndm4@karras"]
    assert chosen_starts(ranking, 2) == ["ipndm4@karras", "ipndm4@dp"]
    assert chosen_starts(ranking, 3) == chosen_starts(ranking, 9) == ["ipndm4@karras", "ipndm4@dp", "ddim@uniform"]
    assert chosen_starts(["given", "another", *ranking], 3) == ["given", "another", "ipndm4@karras"]


def test_the_base_is_the_strongest_of_the_best_few_on_the_samples_that_decide():
    """A solver that is ahead on a few samples by chance is no yardstick."""
    levels = {"other": 0.1, "a": 3.0, "b": np.inf, "c": 1.0, "d": 2.0, "e": 0.5}
    few = dict(zip(levels, np.arange(1.0, 7.0), strict=True))  # all in their own order

    def errors(table, numbers):
        return np.stack([np.full(9, np.nan), np.full(9, (few if numbers == [0] else levels)[table])], 1)

    newton = newton_of(errors)
    names = dict(zip(levels, levels, strict=True))
    found = ranked(newton, names, ["other"])
    assert list(found.ranking) == ["other", "c", "d", "a", "b", "e"]  # e is not of the best four; b overflows there
    assert found.base == "c"
    assert list(found.errors.items()) == [(name, np.sqrt(value)) for name, value in few.items()]
    assert list(ranked(newton, {"b": "b"}).ranking) == ["b"]
    only = ranked(newton, {"other": "other"}, ["other"])
    assert (list(only.ranking), only.base) == (["other"], "other")


def test_tables_that_overflow_are_no_starts():
    """Unless all do, which is an error of the network."""
    values = {"fine": 2.0, "broken": np.inf}
    newton = newton_of(lambda table, numbers: np.full((4, 2), values[table]))
    found = ranked(newton, {"broken": "broken", "fine": "fine"})
    assert list(found.errors) == list(found.ranking) == ["fine"]
    with pytest.raises(ls.InputError, match="no classical solver ends in finite samples on this network"):
        ranked(newton, {"broken": "broken"})


def test_a_start_is_ranked_by_what_most_samples_say():
    """One sample that switches modes does not rule: the mean loss counts it by its distance."""
    values = {"steady": np.full(8, 4.0), "once": np.append(np.ones(7), 40.0)}
    newton = newton_of(lambda table, numbers: np.stack([values[table]] * 2, 1))
    found = ranked(newton, {"steady": "steady", "once": "once"})
    assert found.errors["once"] > found.errors["steady"]
    assert found.base == "once"
