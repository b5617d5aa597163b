"""Where fits may start: every classical solver on every grid, with the calls and the ends of a table."""

from __future__ import annotations

import numpy as np
import pytest
from problems import Mixture
from toy_fits import SCHEDULE, SIGMAS, networked, noise_of

import longstride as ls
from longstride.calibration.samples import Samples
from longstride.calibration.starts.classical import CLASSICAL, classical_starts, classical_tables, most_starts
from longstride.calibration.starts.dynamic_programming import DISCOUNTS, own_levels

SCHEDULES = {
    "ve": ls.Schedule.edm(0.02, 40.0),
    "vp": ls.Schedule.vp(),
    "flow": ls.Schedule.flow(),
}


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("family", list(SCHEDULES))
def test_classical_tables_share_calls_and_ends(family, final):
    schedule = SCHEDULES[family]
    found_any = set()
    two_calls = [("heun", 3)] if family == "ve" else []
    for solver, steps in (("ddim", 1), ("ddim", 5), ("dpmpp_2m", 8), *two_calls):
        like = ls.build(solver, ls.grid("uniform", steps, schedule=schedule, final=final), schedule=schedule)
        own = np.geomspace(float(like.sigmas[0]), 0.03, like.nfe + 1)
        own[-1] = like.sigmas[-1]
        found = classical_tables(like, schedule, schedule.sigma_range[0], {"dp": own})
        for name, table in found.items():
            assert table.nfe == like.nfe
            assert table.sigmas[[0, -1]].tolist() == like.sigmas[[0, -1]].tolist()
            assert table.alphas[[0, -1]].tolist() == like.alphas[[0, -1]].tolist()
            assert np.all(np.diff(table.sigmas) < 0)
            assert table.exact
            assert table.name == CLASSICAL[name.partition("@")[0]].solver
            if name.endswith("@dp"):
                assert table.sigmas.tolist() == own.tolist()
        assert {"ddim@uniform", "ddim@dp", "ddim@log_snr"} <= set(found)
        found_any |= set(found)
    assert {name.partition("@")[0] for name in found_any} >= {"ddim", "dpmpp_2m", "dpmpp_3m", "unipc2", "unipc3"}


def test_flows_have_a_grid_with_sd3_s_shift():
    schedule = SCHEDULES["flow"]
    like = ls.build("ddim", ls.grid("uniform", 5, schedule=schedule), schedule=schedule)
    levels = classical_tables(like, schedule)["unipc3@shift3"].sigmas
    even = np.append(np.linspace(1, levels[-2] / (3 - 2 * levels[-2]), 5), 0)
    np.testing.assert_allclose(levels, 3 * even / (1 + 2 * even), rtol=1e-12)
    assert "unipc3@shift3" not in classical_tables(ls.build("ddim", [3.0, 1.0, 0.1]), SCHEDULES["ve"])


def test_classical_tables_without_a_schedule_need_no_network_time():
    like = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.02, sigma_max=40.0))
    found = classical_tables(like)
    assert {name.partition("@")[2] for name in found} == {"karras", "log_snr"}
    assert found["ddim@karras"].distance(like) == 0.0


def test_grids_of_the_whole_schedule_are_left_out_where_the_table_begins_elsewhere():
    schedule = SCHEDULES["ve"]
    like = ls.build("ddim", ls.grid("karras", 5, schedule=schedule, sigma_max=10.0), schedule=schedule)
    assert {name.partition("@")[2] for name in classical_tables(like, schedule)} == {"karras", "log_snr"}


def test_starts_hold_grids_that_are_made_for_the_network():
    """Beside every classical table on the usual grids, one per solver on the levels of dynamic programming."""
    table = ls.build("ddim", SIGMAS)
    samples = Samples.of(networked(Mixture()), noise_of(24), table, held_out=8)
    found, usual = classical_starts(samples, table), classical_tables(table, SCHEDULE, samples.floor)
    own = {name: one for name, one in found.items() if name.partition("@")[2] in DISCOUNTS}
    assert {name.partition("@")[0] for name in own} == {name.partition("@")[0] for name in usual}
    assert {name: one for name, one in found.items() if name not in own}.keys() == usual.keys()
    assert len(found) <= most_starts()
    for name, levels in own_levels(samples, table).items():
        assert found[f"ddim@{name}"].sigmas.tolist() == [table.sigmas[0], *levels[1:-1], table.sigmas[-1]]
