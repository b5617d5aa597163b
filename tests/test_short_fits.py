"""Where fits start: the strongest on the samples that decide, and the best on each of the best grids."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import longstride as ls
from longstride.calibration.endpoint.short_fits import Starts, chosen_starts, ranked, short_fits


def newton_of(errors):
    """What is asked of a fit: the errors of tables on its fitted and its held-out samples."""
    return SimpleNamespace(fitted=[0], held_out=[1], errors=errors, measure=lambda tables, numbers: None)


def test_scouts_are_the_best_of_the_best_grids():
    ranking = ["ipndm4@karras", "ipndm3@karras", "ipndm4@dp", "unipc3@dp", "ddim@karras", "ddim@uniform"]
    assert chosen_starts(ranking, 1) == ["ipndm4@karras"]
    assert chosen_starts(ranking, 2) == ["ipndm4@karras", "ipndm4@dp"]
    assert chosen_starts(ranking, 3) == chosen_starts(ranking, 9) == ["ipndm4@karras", "ipndm4@dp", "ddim@uniform"]
    assert chosen_starts(["given", "another", *ranking], 3) == ["given", "another", "ipndm4@karras"]


def test_universal_tables_take_one_place_among_scouts():
    own = ["0.5 std@universal", "1 std@universal", "2 std w7.5@universal"]
    ranking = [*own, "ipndm4@karras", "ipndm3@karras", "ipndm4@dp", "unipc3@uniform"]
    assert chosen_starts(ranking, 3) == [own[0], "ipndm4@karras", "ipndm4@dp"]
    assert chosen_starts(ranking[::-1], 3) == ["unipc3@uniform", "ipndm4@dp", "ipndm3@karras"]


def test_the_base_is_the_better_of_classical_and_universal_tables():
    """Universal tables that are ahead on a few samples leave room for four classical tables on those that decide."""
    own = [f"{part} std@universal" for part in (0.5, 1, 2)]
    names = dict(zip([*own, *"abcde"], [*own, *"abcde"], strict=True))
    few = dict(zip(names, np.arange(1.0, 9.0), strict=True))
    for then, base in ((2.0, own[1]), (9.0, "d")):  # the best universal table, and the best of four classical tables
        held = {**dict.fromkeys(own, 10.0), own[1]: then, **dict.fromkeys("abc", 8.0), "d": 3.0, "e": 0.1}

        def errors(table, numbers, held=held):
            return np.full((9, 2), (few if numbers == [0] else held)[table])

        assert ranked(newton_of(errors), names).base == base


def test_the_second_whole_fit_is_of_the_other_kind():
    """Universal or classical; else short fits go on in the order of their objectives."""
    own, losses = "1 std@universal", {"a": 1.0, "b": 2.0, "c": 3.0}

    def order(losses):
        newton = newton_of(lambda table, numbers: np.full((9, 2), losses[table]))
        newton.robust, newton.parameters = 1.0, SimpleNamespace(prepared=lambda table: table)
        starts = Starts({key: key for key in losses}, [], losses, list(losses))
        return list(short_fits(newton, starts, list(losses), 0, lambda: None).fits)

    assert order(losses) == ["a", "b", "c"]
    assert order({**losses, own: 9.0}) == ["a", own, "b", "c"]
    assert order({own: 0.5, **losses}) == [own, "a", "b", "c"]


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
