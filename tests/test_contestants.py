"""Who takes part, on which levels, and how samplers are written."""

from __future__ import annotations

import pytest

import longstride as ls
from longstride.calibration.starts.classical import CLASSICAL
from longstride.evaluation import PAPER
from longstride.evaluation.contestants import CONTESTANTS, base_table, card_label, label


def test_every_calibrated_contestant_has_its_base_on_the_same_levels():
    for one in CONTESTANTS.values():
        if one.base is not None:
            base = CONTESTANTS[one.base]
            assert (base.solver, base.options, base.grid) == (one.solver, one.options, one.grid)
    assert {"biia_edm", "iia_edm", "iia_dpmpp_2m", "iia_dpm_solver_2m", "iia_ddim_cfg"} <= set(PAPER)


def test_a_solver_of_two_calls_per_step_spends_the_most_below_an_odd_number():
    schedule = ls.Schedule.edm()
    assert base_table(schedule, "heun", 5, exactly=False).nfe == 4
    assert base_table(schedule, "heun", 5, final="zero").nfe == 5
    with pytest.raises(ls.InputError, match="cannot spend exactly 5"):
        base_table(schedule, "heun", 5)


def test_every_sampler_that_a_search_or_a_benchmark_names_has_a_label():
    names = (*CONTESTANTS, *CLASSICAL, "teacher")
    assert [name for name in names if label(name) == name] == []
    assert len({label(name) for name in names}) == len({*names})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gauss_newton", "Gauss–Newton"),
        ("given", "the given table"),
        ("filled", "the filled table"),
        ("ipndm4@dp_late", "iPNDM-4 on dp_late"),
        ("dpmpp_2m@karras", "DPM-Solver++ 2M on karras"),
        ("heun", "Heun"),
        ("mine", "mine"),
    ],
)
def test_what_a_card_says_of_itself(name: str, text: str):
    assert card_label(name) == text
