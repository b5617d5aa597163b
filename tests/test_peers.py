"""The benchmark against peers: everybody is measured on the same fresh noise, and spends what the results say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_models import save_tiny_model

import longstride as ls
from benchmarks.contest import Wish, chosen_peers, peer_cases, run_peers
from benchmarks.field import FULL, IIA, OURS, STAGED, Field, PeerCase
from benchmarks.paper import Case
from benchmarks.peer_tables import (
    contest_table,
    cost_table,
    full_table,
    growth_table,
    instead_table,
    ratio_table,
)
from benchmarks.peers import PEERS, ld3
from longstride.calibration.starts.classical import CLASSICAL
from longstride.evaluation import source
from longstride.evaluation.results import Line, Results, merged
from longstride.sampler import sample


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    model = ls.load_model(save_tiny_model(folder / "tiny"))
    case = Case("tiny", "Tiny", "tiny", samples=80, batch_size=20, calibration_samples=20)
    one = PeerCase(case, (3,), samples=24, fitted=12, held_out=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.contest.YARDSTICKS", {5: ("ddim",)})
        results = run_peers(model, one, folder / "out", Wish(names=(*IIA, *OURS, "gits", "pas", "ld3")))
    return model, one, folder / "out", results


@pytest.mark.slow
def test_everybody_takes_part_and_spends_three_calls(outcome):
    _, _, _, results = outcome
    assert set(results.contestants) == {"classical", *CLASSICAL, *IIA, *OURS, "gits", "pas", "ld3"}
    assert results.nfes == [3, 5]
    assert {line.contestant for line in results.lines if line.nfe == 5} == {"classical", "ddim"}
    search = results.about["search"]
    assert search["ld3-3"]["calls"] <= search["ld3-3"]["budget"] == search["gauss_newton-3"]["calls"]
    assert search["ld3-3"]["backward"] > 0
    assert search["gits-3"]["backward"] == 0


def test_the_best_classical_solver_is_one_of_them(outcome):
    _, _, _, results = outcome
    best = results.about["search"]["classical-3"]["solver"].partition("@")[0]
    mine, same = (results.value(name, 3, "rmse") for name in ("classical", best))
    assert mine is not None
    assert same is not None
    assert mine.value == same.value


@pytest.mark.parametrize(("nfe", "even"), [(4, True), (5, False)])
def test_heun_takes_part_on_flows_where_its_calls_are_even(tmp_path, nfe, even):
    model = ls.load_model(save_tiny_model(tmp_path / "flow", scheduler=FlowMatchEulerDiscreteScheduler()))
    field = Field(model, PeerCase(Case("tiny", "Tiny", "tiny"), (nfe,), samples=8, fitted=4, held_out=4), seed=0)
    found = field.classical(nfe)
    assert set(found) == {"classical", *CLASSICAL, *(STAGED if even else ())}
    assert found["classical"].about["solver"].partition("@")[0] in CLASSICAL
    if even:
        heun = found["heun"].sampler
        assert isinstance(heun, ls.SolverTable)
        assert (heun.nfe, heun.sigmas[0], heun.sigmas[1] == heun.sigmas[2]) == (nfe, 1.0, True)
        assert "shift3" in found["heun"].about["rmse_by_grid"]


def test_what_is_found_and_measured_another_time_needs_no_new_solution(outcome, monkeypatch):
    """Neither of the calibration samples nor of those that are measured."""
    model, one, out, results = outcome
    monkeypatch.setattr("benchmarks.contest.YARDSTICKS", {})
    for name in ("benchmarks.field.solve_dense", "longstride.evaluation.source.solve_reference"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("solved again"))
    work = out / "work" / "peers_tiny"
    (work / "found" / "iia_ddim-3.json").unlink()
    parts = sorted((work / "measured" / "batches").glob("*/iia_ddim-*"))
    assert len(parts) == 2
    for part in parts:
        part.unlink()
    again = run_peers(model, one, out, Wish(names=("iia_ddim",)))
    before, after = (found.value("iia_ddim", 3, "rmse") for found in (results, again))
    assert before is not None
    assert after is not None
    assert after.value == pytest.approx(before.value, rel=1e-6)


def test_a_table_of_two_names_runs_once(outcome, monkeypatch):
    """``classical`` is one of the solvers: of both, every batch is drawn once, and both say the same."""
    model, one, out, results = outcome
    monkeypatch.setattr("benchmarks.contest.YARDSTICKS", {})
    twin = results.about["search"]["classical-3"]["solver"].partition("@")[0]
    for part in [p for name in ("classical", twin) for p in (out / "work").glob(f"**/batches/*/{name}-3-*")]:
        part.unlink()
    drawn = []
    monkeypatch.setattr(source, "sample", lambda *a: drawn.append(a) or sample(*a))
    again = run_peers(model, one, out, Wish(names=("iia_ddim",)))
    assert len(drawn) == 2  # batches
    for name in ("classical", twin):
        assert again.value(name, 3, "rmse") == results.value(name, 3, "rmse")


def test_a_second_run_makes_no_search(outcome, monkeypatch):
    model, one, out, results = outcome
    monkeypatch.setattr("benchmarks.contest.YARDSTICKS", {})
    monkeypatch.setattr("benchmarks.field.calibrate", lambda *a, **k: pytest.fail("searched again"))
    again = run_peers(model, one, out, Wish(names=("gauss_newton", "gits", "ld3")))
    for name in ("gauss_newton", "gits"):
        assert again.value(name, 3, "rmse") == results.value(name, 3, "rmse")


def test_another_number_of_calls_is_added(outcome):
    _, _, out, results = outcome
    other = tuple(replace(line, nfe=4) for line in results.lines if line.nfe == 3)
    more = Results({**results.about, "search": {"gits-4": {"calls": 1}}}, other)
    both = merged(results, more)
    assert both.nfes == [3, 4, 5]
    assert both.value("gits", 3, "rmse") == results.value("gits", 3, "rmse")
    assert {"gits-3", "gits-4"} <= set(both.about["search"])
    with pytest.raises(ls.InputError, match="another model or other samples"):
        merged(replace(results, about={**results.about, "model": {}}), more)
    assert json.loads((out / "peers_tiny.json").read_text())["about"]["study"]["nfes"] == [3, 5]


def test_classical_solvers_on_default_levels_stand_beside_the_best_grids(outcome, monkeypatch, tmp_path):
    """Nothing is searched, and the yardstick of other noise stays."""
    model, one, kept, before = outcome
    out = shutil.copytree(kept, tmp_path / "out")
    monkeypatch.setattr("benchmarks.field.solve_dense", lambda *a, **k: pytest.fail("solved calibration samples"))
    after = run_peers(model, one, out, Wish(names=("ddim", "unipc3"), usual=True))
    assert set(after.contestants) == {*before.contestants, "ddim@uniform", "unipc3@uniform"}
    assert [line for line in after.lines if line.contestant == "teacher"] == [
        line for line in before.lines if line.contestant == "teacher"
    ]
    assert [after.value("ld3", 3, m) for m in ("rmse", "fd_teacher")] == [
        before.value("ld3", 3, m) for m in ("rmse", "fd_teacher")
    ]
    tables = Field(model, one, 0).usual(3, ("ddim", "unipc3"))
    assert {key: found.about for key, found in tables.items()} == {
        key: after.about["search"][f"{key}-3"] for key in ("ddim@uniform", "unipc3@uniform")
    }
    schedule = model.schedule
    by_hand = ls.build("ddim", ls.grid("uniform", 3, schedule=schedule, final="sigma_min"), schedule=schedule)
    assert tables["ddim@uniform"].sampler.distance(by_hand) < 1e-12
    with pytest.raises(ls.InputError, match="classical solvers have no schedule to be run in full or cut"):
        Wish(usual=True, full=True)
    with pytest.raises(ls.InputError, match="gits"):
        Wish(names=("gits",), usual=True)


def test_one_sampler_alone_is_measured_again(outcome, monkeypatch):
    """Everything else that was measured stays, and backprop may spend what our own fit once spent."""
    model, one, out, before = outcome
    monkeypatch.setattr("benchmarks.contest.YARDSTICKS", {})
    after = run_peers(model, one, out, Wish(names=("ld3",)))
    assert set(after.contestants) == set(before.contestants)
    assert after.about["search"]["ld3-3"]["budget"] == before.about["search"]["gauss_newton-3"]["calls"]
    for name in before.contestants:
        assert after.value(name, 3, "rmse") == before.value(name, 3, "rmse")
    with pytest.raises(ls.InputError, match="ld3 may spend as many network calls as gauss_newton did: run that first"):
        run_peers(model, one, out, Wish(nfes=(4,), names=("ld3",)))


@pytest.mark.slow
def test_backprop_with_more_calls_stands_beside_the_same_with_as_many(outcome, monkeypatch):
    model, one, out, before = outcome
    monkeypatch.setattr("benchmarks.contest.YARDSTICKS", {})
    after = run_peers(model, one, out, Wish(names=("gits", "ld3", "gauss_newton"), times=3))
    assert set(after.contestants) == {*before.contestants, "ld3_x3"}
    search = after.about["search"]
    assert search["ld3_x3-3"]["budget"] == 3 * search["gauss_newton-3"]["calls"]
    assert "| LD3, 3 × the calls |" in contest_table(after, "rmse", None)
    with pytest.raises(ls.InputError, match="no peer that learns by backprop is to be run on tiny"):
        run_peers(model, one, out, Wish(names=("gits",), times=3))
    with pytest.raises(ls.InputError, match="full schedules are not to be cut to 3 times our calls"):
        run_peers(model, one, out, Wish(times=3, full=True))


@pytest.mark.slow
def test_full_schedules_whatever_they_cost(outcome, monkeypatch):
    model, one, out, before = outcome
    monkeypatch.setattr("benchmarks.contest.YARDSTICKS", {})
    monkeypatch.setattr(ld3, "PUBLISHED_ITERATIONS", 20)
    monkeypatch.setitem(FULL, "gauss_newton_full", {"scouts": 0})
    after = run_peers(model, one, out, Wish(names=("ld3", "gauss_newton"), full=True))
    found = after.about["search"]["ld3_full-3"]
    assert set(after.contestants) >= {*before.contestants, "ld3_full", "gauss_newton_full"}
    assert after.about["search"]["gauss_newton_full-3"]["scouts"].keys() == {"given"}
    assert found["budget"] is None
    assert found["iterations"] == 20
    assert found["backward"] == 20 * 2 * 3  # batches of 2, through all three calls
    rows = full_table(after).splitlines()[2:]
    said = ["LD3, full schedule", "longstride, 6 steps", "**longstride**"]
    assert [row.split(" | ")[:2] for row in rows] == [["| 3", label] for label in said]
    assert growth_table(after).splitlines()[2:] == [f"| 3 | {' | '.join(rows[-1][:-2].split(' | ')[-3:])} |"]


def test_tables_show_the_least_in_bold():
    def line(name: str, measure: str, value: float) -> Line:
        return Line("m", None, name, None, 5, 5, measure, value)

    about = {
        "labels": {"gits": "GITS"},
        "search": {
            "classical-5": {"solver": "unipc3@karras"},
            "gits-5": {"calls": 10, "seconds": 2.0, "memory_mib": 3.0, "backward": 0},
            "gauss_newton-5": {"calls": 1000, "seconds": 1.0, "memory_mib": 4.0},
        },
    }
    values = {"classical": 0.2, "unipc3": 0.2, "gits": 0.15, "gauss_newton": 0.1}
    lines = tuple(line(n, m, v) for n, v in values.items() for m in ("rmse", "median", "fd_teacher"))
    results = Results(about, lines)
    table = contest_table(results, "rmse", "median").splitlines()
    assert table[2:] == [
        "| UniPC-3 | 0.200 (0.200) |", "| GITS | 0.150 (0.150) |", "| **longstride** | **0.100 (0.100)** |"
    ]  # fmt: skip
    assert ratio_table(results).splitlines()[-1] == "| 5 | 0.50 (UniPC-3) | 0.50 (UniPC-3) | 0.50 (UniPC-3) |"
    assert "| GITS | no | 10 | 2 | 3 |" in cost_table(results)
    later = {"gauss_newton-8": {"calls": 3000, "seconds": 1.0, "memory_mib": 4.0}}
    ours = Line("m", None, "gauss_newton", None, 8, 8, "rmse", 0.1)
    more = Results({**about, "search": {**about["search"], **later}}, (*lines, ours))
    assert cost_table(more) == cost_table(results)  # 8 calls have one sampler alone


def test_fewer_calls_instead_of_more():
    values = {("ddim", 20): 0.2, ("ddim", 50): 0.05, ("gauss_newton", 4): 0.3, ("gauss_newton", 6): 0.1}
    lines = [Line("m", None, name, None, nfe, nfe, "rmse", value) for (name, nfe), value in values.items()]
    rows = instead_table(Results({}, tuple(lines))).splitlines()[2:]
    assert rows[:2] == ["| DDIM, 50 calls | more than 6 | – | – |", "| DDIM, 20 calls | 6 | – | – |"]


def test_what_is_not_there_is_named():
    with pytest.raises(ls.InputError, match="nobody"):
        chosen_peers(("nobody",), backprop=True)
    assert chosen_peers(("iia_ddim",), backprop=True) == {}
    assert chosen_peers((), backprop=True) == PEERS
    assert "gs" not in chosen_peers((), backprop=False)
    assert {"garments", "cifar10", "galaxy_hsc32"} <= set(peer_cases())
